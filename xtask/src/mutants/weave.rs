//! Many faults in one source: each becomes a branch that is taken when its number is asked for.
//!
//! `a == b` becomes `(if crate::mutant::is(7) { (a != b) } else { (a == b) })`; a function that returns at once begins with
//! `if crate::mutant::is(8) { return 0; }`; an arm that is left out gets a guard. A `const fn` that asks is none any more. What
//! cannot be written so, such as a constant or the operators between the `let`s of a condition, has no place here.

use std::collections::BTreeMap;
use std::ops::Range;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Arm, Block, Expr, ExprBinary, ExprStruct, ExprUnary, ImplItemFn, ItemFn, Member, Signature};

use super::list::{Genre, Mutant};

/// A source with faults in it.
pub(crate) struct Woven {
    pub(crate) text: String,
    /// What in `text` belongs to which fault.
    pub(crate) owners: Vec<(Range<usize>, usize)>,
}

impl Woven {
    /// The faults that a compiler complains about at `place`: those whose text touches it.
    pub(crate) fn blamed(&self, place: &Range<usize>) -> Vec<usize> {
        let touched = self.owners.iter().filter(|(owned, _)| owned.start <= place.end && place.start <= owned.end);
        // The text of a fault may hold that of others, never in part: the narrowest is meant.
        let within: Vec<_> = touched.clone().filter(|(owned, _)| owned.start <= place.start).collect();
        match within.iter().map(|(owned, _)| owned.len()).min() {
            Some(least) => within.iter().filter(|(owned, _)| owned.len() == least).map(|(_, id)| *id).collect(),
            None => touched.map(|(_, id)| *id).collect(),
        }
    }

    /// The fault whose text is next to `place`, where none touches it: a statement that returns something else than the rest of
    /// its function has the compiler complain about the signature, or about the rest.
    pub(crate) fn nearest(&self, place: &Range<usize>) -> Option<usize> {
        let gap =
            |owned: &Range<usize>| owned.start.saturating_sub(place.end).max(place.start.saturating_sub(owned.end));
        let near = self.owners.iter().map(|(owned, id)| (gap(owned), *id)).filter(|(gap, _)| *gap <= NEAR_BYTES);
        near.min().map(|(_, id)| id)
    }
}

/// A signature is not further from the first statement.
const NEAR_BYTES: usize = 400;

/// Where a fault is written, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// A statement, or a guard, at this offset.
    Insert(usize, String),
    /// An expression in the place of another, behind a field's name where that was left out.
    Instead(Range<usize>, String, String),
}

impl Place {
    fn start(&self) -> usize {
        match self {
            Place::Insert(at, _) => *at,
            Place::Instead(range, ..) => range.start,
        }
    }
}

/// Writes `mutants`, each with its number, into a source. Those that have no place are missing in the owners, and with
/// `keep_const` those of functions that are `const`.
pub(crate) fn weave(source: &str, mutants: &[(usize, &Mutant)], keep_const: bool) -> Result<Woven, syn::Error> {
    let mut index = Index { source, ..Index::default() };
    index.visit_file(&syn::parse_file(source)?);
    // By where they begin; insertions before what they stand in front of, the outer before the inner.
    let mut groups: BTreeMap<(usize, bool, std::cmp::Reverse<usize>), Group> = BTreeMap::new();
    for (id, mutant) in mutants {
        let place = index.place(*id, mutant);
        if let Some(place) = &place
            && let Some(word) = index.const_around(place.start())
        {
            if keep_const {
                continue;
            }
            // A group without choices is left out.
            groups.entry((word.start, true, std::cmp::Reverse(word.end))).or_default();
        }
        match place {
            None => {}
            Some(Place::Insert(at, text)) => {
                groups.entry((at, false, std::cmp::Reverse(at))).or_default().choices.push((*id, text));
            }
            Some(Place::Instead(range, name, text)) => {
                let group = groups.entry((range.start, true, std::cmp::Reverse(range.end))).or_default();
                group.name = name;
                group.choices.push((*id, text));
            }
        }
    }
    let groups: Vec<(Range<usize>, Group)> =
        groups.into_iter().map(|((start, _, end), group)| (start..end.0, group)).collect();
    let mut woven = Woven { text: String::new(), owners: Vec::new() };
    woven.write(source, 0..source.len(), &groups);
    Ok(woven)
}

#[derive(Debug, Default)]
struct Group {
    name: String,
    choices: Vec<(usize, String)>,
}

impl Woven {
    fn write(&mut self, source: &str, range: Range<usize>, groups: &[(Range<usize>, Group)]) {
        let (mut at, mut next) = (range.start, 0);
        while let Some((place, group)) = groups.get(next) {
            self.text.push_str(&source[at..place.start]);
            at = place.end;
            next += 1;
            if place.is_empty() {
                for (id, text) in &group.choices {
                    self.own(*id, text);
                }
                continue;
            }
            if group.choices.is_empty() {
                continue;
            }
            let inside = groups[next..].iter().take_while(|(inner, _)| inner.start < place.end).count();
            let start = self.text.len();
            self.text.push_str(&group.name);
            self.text.push('(');
            for (id, text) in &group.choices {
                self.own(*id, &format!("if crate::mutant::is({id}) {{ ({text}) }} else "));
            }
            self.text.push_str("{ (");
            self.write(source, place.clone(), &groups[next..next + inside]);
            self.text.push_str(") })");
            let whole = start..self.text.len();
            self.owners.extend(group.choices.iter().map(|(id, _)| (whole.clone(), *id)));
            next += inside;
        }
        self.text.push_str(&source[at..range.end]);
    }

    fn own(&mut self, id: usize, text: &str) {
        let start = self.text.len();
        self.text.push_str(text);
        self.owners.push((start..self.text.len(), id));
    }
}

/// The expressions of a source by where cargo-mutants says that they begin.
#[derive(Default)]
struct Index<'s> {
    source: &'s str,
    /// By the operator: left and right side.
    binary: BTreeMap<usize, (Range<usize>, Range<usize>)>,
    /// By the operator: its operand.
    unary: BTreeMap<usize, Range<usize>>,
    /// By the arm: where its pattern ends, and its guard.
    arms: BTreeMap<usize, (usize, Option<Range<usize>>)>,
    /// By the field: its name, whether that is all, its value, and the struct's base.
    fields: BTreeMap<usize, (String, bool, Range<usize>, Range<usize>)>,
    /// The word `const` of each function that is, and the function's body.
    consts: Vec<(Range<usize>, Range<usize>)>,
}

impl Index<'_> {
    fn place(&self, id: usize, mutant: &Mutant) -> Option<Place> {
        let from = offset(self.source, mutant.from)?;
        let to = offset(self.source, mutant.to)?;
        let new = &mutant.replacement;
        let instead = |range: Range<usize>, text: String| Some(Place::Instead(range, String::new(), text));
        match mutant.genre {
            Genre::FnValue => Some(Place::Insert(from, format!("if crate::mutant::is({id}) {{ return {new}; }} "))),
            Genre::BinaryOperator => {
                let (left, right) = self.binary.get(&from)?;
                let text = format!("{}{new}{}", &self.source[left.start..from], &self.source[to..right.end]);
                instead(left.start..right.end, text)
            }
            Genre::UnaryOperator => {
                let operand = self.unary.get(&from)?.clone();
                let text = self.source[operand.clone()].to_owned();
                instead(from..operand.end, text)
            }
            Genre::MatchArmGuard => instead(from..to, new.clone()),
            Genre::MatchArm => match self.arms.get(&from)? {
                (_, Some(guard)) => instead(guard.clone(), "false".to_owned()),
                (end, None) => Some(Place::Insert(*end, format!(" if !crate::mutant::is({id})"))),
            },
            Genre::StructField => {
                let (name, short, value, base) = self.fields.get(&from)?.clone();
                let text = format!("({}).{name}", &self.source[base]);
                Some(Place::Instead(value, if short { format!("{name}: ") } else { String::new() }, text))
            }
        }
    }
}

impl Index<'_> {
    fn note_const(&mut self, signature: &Signature, block: &Block) {
        if let Some(word) = &signature.constness {
            self.consts.push((word.span().byte_range(), block.span().byte_range()));
        }
    }

    /// The word that makes the function around `at` a constant one.
    fn const_around(&self, at: usize) -> Option<Range<usize>> {
        self.consts.iter().find(|(_, body)| body.contains(&at)).map(|(word, _)| word.clone())
    }
}

impl<'ast> Visit<'ast> for Index<'_> {
    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.note_const(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.note_const(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_expr_binary(&mut self, expr: &'ast ExprBinary) {
        // What a `let` between the operators binds is not to be seen from inside a block.
        if !binds(&expr.left) && !binds(&expr.right) {
            let sides = (expr.left.span().byte_range(), expr.right.span().byte_range());
            self.binary.insert(expr.op.span().byte_range().start, sides);
        }
        visit::visit_expr_binary(self, expr);
    }

    fn visit_expr_unary(&mut self, expr: &'ast ExprUnary) {
        self.unary.insert(expr.op.span().byte_range().start, expr.expr.span().byte_range());
        visit::visit_expr_unary(self, expr);
    }

    fn visit_arm(&mut self, arm: &'ast Arm) {
        let guard = arm.guard.as_ref().map(|(_, guard)| guard.span().byte_range());
        self.arms.insert(arm.span().byte_range().start, (arm.pat.span().byte_range().end, guard));
        visit::visit_arm(self, arm);
    }

    fn visit_expr_struct(&mut self, expr: &'ast ExprStruct) {
        if let Some(base) = &expr.rest {
            for field in &expr.fields {
                let Member::Named(name) = &field.member else { continue };
                let value = field.expr.span().byte_range();
                let short = field.colon_token.is_none();
                let place = (name.to_string(), short, value, base.span().byte_range());
                self.fields.insert(field.span().byte_range().start, place);
            }
        }
        visit::visit_expr_struct(self, expr);
    }
}

/// Whether a part of a condition is a `let`.
fn binds(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(binary) => binds(&binary.left) || binds(&binary.right),
        _ => false,
    }
}

/// The byte at which a line and a column, both from 1, are.
pub(crate) fn offset(source: &str, (line, column): (usize, usize)) -> Option<usize> {
    let start: usize = source.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let rest = source.get(start..)?;
    let within = rest.char_indices().map(|(at, _)| at).chain([rest.len()]).nth(column.checked_sub(1)?)?;
    Some(start + within)
}

/// A source with one fault in it, as if somebody had written it.
pub(crate) fn alone(source: &str, mutant: &Mutant) -> Option<String> {
    let (from, to) = (offset(source, mutant.from)?, offset(source, mutant.to)?);
    Some(format!("{}{}{}", &source[..from], mutant.replacement, &source[to..]))
}

/// The module that a crate with faults gets: the questions that its branches ask.
pub(crate) fn module(count: usize) -> String {
    include_str!("question.rs.txt").replace("COUNT", &count.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(genre: Genre, source: &str, at: &str, len: usize, replacement: &str) -> Mutant {
        let start = source.find(at).unwrap();
        let place = |offset: usize| {
            let before = &source[..offset];
            let line = before.matches('\n').count() + 1;
            (line, before.rsplit('\n').next().unwrap().chars().count() + 1)
        };
        Mutant {
            name: String::new(),
            package: String::new(),
            file: String::new(),
            genre,
            from: place(start),
            to: place(start + len),
            replacement: replacement.to_owned(),
        }
    }

    fn woven(source: &str, mutants: &[Mutant]) -> Woven {
        let numbered: Vec<(usize, &Mutant)> = mutants.iter().enumerate().map(|(at, mutant)| (at + 1, mutant)).collect();
        weave(source, &numbered, false).unwrap()
    }

    #[test]
    fn operators_become_branches_the_outer_around_the_inner() {
        let source = "fn f(a: u8, b: u8) -> bool {\n    // é\n    a + 1 == b && !true\n}\n";
        let and = mutant(Genre::BinaryOperator, source, "&&", 2, "||");
        let equal = mutant(Genre::BinaryOperator, source, "==", 2, "!=");
        let not = mutant(Genre::UnaryOperator, source, "!", 1, "");
        assert!(woven(source, &[and, equal, not]).text.contains(
            "    (if crate::mutant::is(1) { (a + 1 == b || !true) } else { ((if crate::mutant::is(2) { (a + 1 != b) } else \
             { (a + 1 == b) }) && (if crate::mutant::is(3) { (true) } else { (!true) })) })\n"
        ));
    }

    #[test]
    fn functions_arms_and_fields_ask_first() {
        let source = "fn f(a: u8) -> S { match a { 1 => g(), 2 if h() => S { x, ..S::new() }, _ => k() } }";
        let all = [
            mutant(Genre::FnValue, source, "match a", 7, "Default::default()"),
            mutant(Genre::MatchArm, source, "1 => g(),", 9, ""),
            mutant(Genre::MatchArm, source, "2 if h()", 8, ""),
            mutant(Genre::MatchArmGuard, source, "h()", 3, "true"),
            mutant(Genre::StructField, source, "x, ..", 2, ""),
        ];
        assert_eq!(
            woven(source, &all).text,
            "fn f(a: u8) -> S { if crate::mutant::is(1) { return Default::default(); } match a { \
             1 if !crate::mutant::is(2) => g(), 2 if (if crate::mutant::is(3) { (false) } else if crate::mutant::is(4) { (true) } \
             else { (h()) }) => S { x: (if crate::mutant::is(5) { ((S::new()).x) } else { (x) }), ..S::new() }, _ => k() } }"
        );
    }

    #[test]
    fn a_constant_function_that_asks_is_none_any_more() {
        let source = "pub const fn f() -> u8 { 3 / 2 } const fn g() {}";
        let half = mutant(Genre::BinaryOperator, source, "/", 1, "%");
        assert_eq!(
            woven(source, std::slice::from_ref(&half)).text,
            "pub  fn f() -> u8 { (if crate::mutant::is(1) { (3 % 2) } else { (3 / 2) }) } const fn g() {}"
        );
        assert!(weave(source, &[(1, &half)], true).unwrap().owners.is_empty());
    }

    #[test]
    fn what_stands_between_lets_has_no_place() {
        let source = "fn f(a: Option<u8>) { if let Some(b) = a && b == 1 && b > 0 { g() } }";
        let first = mutant(Genre::BinaryOperator, source, "&& b ==", 2, "||");
        let equal = mutant(Genre::BinaryOperator, source, "==", 2, "!=");
        let woven = woven(source, &[first, equal]);
        assert_eq!(woven.owners.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [2, 2]);
    }

    #[test]
    fn a_complaint_is_laid_to_the_narrowest_fault_around_it() {
        let woven = Woven { text: String::new(), owners: vec![(0..40, 1), (10..20, 2), (25..30, 3)] };
        assert_eq!(woven.blamed(&(12..14)), [2]);
        assert_eq!(woven.blamed(&(32..34)), [1]);
        assert!(woven.blamed(&(50..60)).is_empty());
    }

    #[test]
    fn a_complaint_about_a_signature_is_laid_to_the_statement_behind_it() {
        let woven = Woven { text: String::new(), owners: vec![(100..140, 1), (1000..1020, 2)] };
        assert_eq!(woven.nearest(&(60..90)), Some(1));
        assert_eq!(woven.nearest(&(150..160)), Some(1));
        assert_eq!(woven.nearest(&(950..960)), Some(2));
        assert_eq!(woven.nearest(&(560..580)), None);
    }

    #[test]
    fn alone_a_fault_is_as_written() {
        let source = "fn f() -> bool {\n    1 == 2\n}\n";
        let equal = mutant(Genre::BinaryOperator, source, "==", 2, "!=");
        assert_eq!(alone(source, &equal).unwrap(), "fn f() -> bool {\n    1 != 2\n}\n");
    }
}
