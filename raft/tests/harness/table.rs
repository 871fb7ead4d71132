//! Tables in doc comments that name tests, and whether the tests are there.

/// The rows of the first table of a file's doc comment: what, and the names in backticks in the last column.
pub(crate) fn rows(text: &str) -> Vec<(String, Vec<String>)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("//! | ")).skip(1);
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_end_matches('|').split(" | ").map(str::trim).collect();
        let names = cells.last()?.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        (!names.is_empty()).then(|| (cells[0].to_owned(), names))
    };
    lines.filter_map(row).collect()
}

/// Whether the file has a test of this name.
pub(crate) fn has_test(path: &str, name: &str) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut tests = false;
    text.lines().any(|line| {
        let is_it = tests && line.starts_with(&format!("fn {name}()"));
        tests = line.starts_with("#[test]") || tests && line.starts_with("#[");
        is_it
    })
}
