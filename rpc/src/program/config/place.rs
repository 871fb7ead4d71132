//! Where in a file something stands: a line, a column and the text of that line.

use std::ops::Range;

/// A stretch of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file's name as the user gave it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// In characters; at most to the end of the line.
    pub width: usize,
    /// The whole line.
    pub text: String,
}

/// A text with a name.
#[derive(Debug, Clone, Copy)]
pub struct Document<'t> {
    name: &'t str,
    text: &'t str,
}

impl<'t> Document<'t> {
    /// `name` is what messages call it.
    pub fn new(name: &'t str, text: &'t str) -> Self {
        Document { name, text }
    }

    /// The place of a range of bytes. A range beyond the text, or inside a character, is moved to where it makes sense.
    pub fn place(&self, span: Range<usize>) -> Box<Place> {
        let start = floor_char(self.text, span.start);
        let end = floor_char(self.text, span.end).max(start);
        let before = self.text.get(..start).unwrap_or("");
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let text = self.text.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or("");
        let line_end = line_start + text.len();
        let width = self.text.get(start..end.min(line_end)).map_or(0, |marked| marked.chars().count());
        Box::new(Place {
            file: self.name.to_owned(),
            line: before.matches('\n').count() + 1,
            column: self.text.get(line_start..start).map_or(0, |left| left.chars().count()) + 1,
            width,
            text: text.to_owned(),
        })
    }
}

/// The nearest character boundary at or before `at`.
fn floor_char(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one() {
        let document = Document::new("f", "a = 1\n  bé = 2\n");
        let place = document.place(8..11);
        assert_eq!((place.line, place.column, place.width, place.text.as_str()), (2, 3, 2, "  bé = 2"));
        assert_eq!((document.place(0..1).line, document.place(0..1).column), (1, 1));
    }

    #[test]
    fn any_range_has_a_place() {
        let text = "é\r\n[x";
        let document = Document::new("f", text);
        for start in 0..9 {
            for end in 0..9 {
                let place = document.place(start..end);
                assert!(place.line <= 2 && place.column + place.width <= place.text.chars().count() + 3);
            }
        }
    }
}
