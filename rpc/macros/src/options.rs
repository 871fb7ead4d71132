//! Options in an attribute's parentheses, `#[replicated(rev = 2)]`: known names once each, literals within limits.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, Lit, LitStr, Meta, MetaNameValue, Token};

use crate::mistakes::Mistakes;

/// The options of one attribute.
pub(crate) struct Options {
    /// The attribute as the user writes it, for messages: `#[service]`.
    attribute: String,
    metas: Vec<Meta>,
}

impl Options {
    /// What stands between the parentheses of an attribute macro.
    pub(crate) fn of_macro(attribute: &str, tokens: TokenStream, mistakes: &mut Mistakes) -> Self {
        let parsed = Punctuated::<Meta, Token![,]>::parse_terminated.parse2(tokens);
        let metas = parsed.map(|list| list.into_iter().collect()).unwrap_or_else(|error| {
            mistakes.push(error);
            Vec::new()
        });
        Options { attribute: attribute.to_owned(), metas }
    }

    /// The options of an attribute on a method or a type, `None` of them when it has no parentheses.
    pub(crate) fn of_attribute(attribute: &str, at: &Attribute, mistakes: &mut Mistakes) -> Self {
        let tokens = match &at.meta {
            Meta::Path(_) => TokenStream::new(),
            Meta::List(list) => list.tokens.clone(),
            Meta::NameValue(_) => {
                mistakes.add(
                    at,
                    format_args!("`{attribute}` has no value of its own"),
                    format_args!("write `{attribute}`, with options in parentheses"),
                );
                TokenStream::new()
            }
        };
        Options::of_macro(attribute, tokens, mistakes)
    }

    /// Takes `name` out, first occurrence; a second one is left for [`finish`](Self::finish) to refuse.
    fn take(&mut self, name: &str) -> Option<Meta> {
        let at = self.metas.iter().position(|meta| meta.path().is_ident(name))?;
        Some(self.metas.remove(at))
    }

    /// `name` without a value.
    pub(crate) fn flag(&mut self, name: &str, mistakes: &mut Mistakes) -> bool {
        match self.take(name) {
            None => false,
            Some(Meta::Path(_)) => true,
            Some(other) => {
                mistakes.add(other, format_args!("`{name}` has no value"), format_args!("write `{name}` alone"));
                true
            }
        }
    }

    /// `name = 7`, within `least..=most`.
    pub(crate) fn number(&mut self, name: &str, least: u64, most: u64, mistakes: &mut Mistakes) -> Option<u64> {
        let meta = self.take(name)?;
        let number = match &meta {
            Meta::NameValue(MetaNameValue { value: Expr::Lit(ExprLit { lit: Lit::Int(lit), .. }), .. }) => {
                lit.base10_parse::<u64>().ok().filter(|number| (least..=most).contains(number))
            }
            _ => None,
        };
        if number.is_none() {
            mistakes.add(
                value_of(&meta),
                format_args!("`{name}` is a whole number from {least} to {most}"),
                format_args!("write `{name} = {}`", least.max(2).min(most)),
            );
        }
        number
    }

    /// `name = "text"`.
    pub(crate) fn text(&mut self, name: &str, example: &str, mistakes: &mut Mistakes) -> Option<LitStr> {
        let meta = self.take(name)?;
        match &meta {
            Meta::NameValue(MetaNameValue { value: Expr::Lit(ExprLit { lit: Lit::Str(lit), .. }), .. }) => {
                Some(lit.clone())
            }
            _ => {
                mistakes.add(
                    value_of(&meta),
                    format_args!("`{name}` is a text in quotes"),
                    format_args!("write `{name} = \"{example}\"`"),
                );
                None
            }
        }
    }

    /// `name = path::to::function`.
    pub(crate) fn path(&mut self, name: &str, mistakes: &mut Mistakes) -> Option<syn::Path> {
        let meta = self.take(name)?;
        match &meta {
            Meta::NameValue(MetaNameValue { value: Expr::Path(path), .. }) if path.qself.is_none() => {
                Some(path.path.clone())
            }
            _ => {
                mistakes.add(
                    value_of(&meta),
                    format_args!("`{name}` is the path of a function"),
                    format_args!("write `{name} = load_old`, without quotes"),
                );
                None
            }
        }
    }

    /// Refuses what nobody has asked for. `known` is how the options are written, `["rev = 2"]`.
    pub(crate) fn finish(self, known: &[&str], mistakes: &mut Mistakes) {
        for meta in self.metas {
            let name = meta.path().to_token_stream().to_string();
            let twice = known.iter().any(|option| option.split(' ').next() == Some(name.as_str()));
            let problem = if twice {
                format!("`{name}` is given twice")
            } else {
                format!("`{}` has no option `{name}`", self.attribute)
            };
            let help = match known {
                [] => format!("write `{}`, it has no options", self.attribute),
                _ => format!("its options are `{}`, each at most once", known.join("`, `")),
            };
            mistakes.add(meta, problem, help);
        }
    }
}

/// What to underline when the value is wrong.
fn value_of(meta: &Meta) -> TokenStream {
    match meta {
        Meta::NameValue(pair) => pair.value.to_token_stream(),
        Meta::Path(_) | Meta::List(_) => meta.to_token_stream(),
    }
}
