//! Mistakes in the user's code, collected so that all of them are shown at once.

use std::fmt::Display;

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::Error;

/// What is wrong with one item, in the order found. Each mistake points at the user's tokens and says what to write
/// instead.
#[derive(Debug, Default)]
pub(crate) struct Mistakes {
    errors: Vec<Error>,
}

impl Mistakes {
    /// `at` is underlined; `help` is a whole sentence in the imperative.
    pub(crate) fn add(&mut self, at: impl ToTokens, problem: impl Display, help: impl Display) {
        self.errors.push(Error::new_spanned(at, format_args!("{problem}\nhelp: {help}")));
    }

    /// Takes over what syn found, which points at tokens but has no help.
    pub(crate) fn push(&mut self, error: Error) {
        self.errors.push(error);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.errors.len()
    }

    /// One `compile_error!` for each mistake; nothing when there is none.
    pub(crate) fn into_tokens(self) -> TokenStream {
        self.errors.into_iter().map(Error::into_compile_error).collect()
    }

    #[cfg(test)]
    pub(crate) fn texts(&self) -> Vec<String> {
        self.errors.iter().map(ToString::to_string).collect()
    }
}

/// The item as written, after its mistakes: the compiler still sees what the user's other code refers to.
pub(crate) fn beside(mistakes: Mistakes, item: impl ToTokens) -> TokenStream {
    let mut tokens = mistakes.into_tokens();
    item.to_tokens(&mut tokens);
    tokens
}
