//! The five marks and what each asks of a method.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Attribute, Path};

/// How a method may be called, as the user marks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Replicated,
    Read,
    Local,
    Timer,
    Effect,
}

/// What stands in front of the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receiver {
    /// `&mut self`
    Exclusive,
    /// `&self`
    Shared,
    /// No `self` at all.
    Absent,
}

impl Mark {
    pub(crate) const ALL: [Mark; 5] = [Mark::Replicated, Mark::Read, Mark::Local, Mark::Timer, Mark::Effect];

    /// As an attribute's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mark::Replicated => "replicated",
            Mark::Read => "read",
            Mark::Local => "local",
            Mark::Timer => "timer",
            Mark::Effect => "effect",
        }
    }

    /// As the user writes it.
    pub(crate) fn attribute(self) -> &'static str {
        match self {
            Mark::Replicated => "#[replicated]",
            Mark::Read => "#[read]",
            Mark::Local => "#[local]",
            Mark::Timer => "#[timer]",
            Mark::Effect => "#[effect]",
        }
    }

    /// As a sentence about its methods begins.
    pub(crate) fn with_article(self) -> String {
        let article = if self == Mark::Effect { "an" } else { "a" };
        format!("{article} `{}`", self.attribute())
    }

    /// The mark that an attribute is: by its own name, or as an item of one of our crates.
    pub(crate) fn of(attribute: &Attribute) -> Option<Mark> {
        Mark::ALL.into_iter().find(|mark| is_ours(attribute.path(), mark.name()))
    }

    pub(crate) fn receiver(self) -> Receiver {
        match self {
            Mark::Replicated | Mark::Timer => Receiver::Exclusive,
            Mark::Read => Receiver::Shared,
            Mark::Local | Mark::Effect => Receiver::Absent,
        }
    }

    /// The context's type, without its reference.
    pub(crate) fn context(self) -> &'static str {
        match self {
            Mark::Replicated | Mark::Timer => "Cx",
            Mark::Read => "ReadCx",
            Mark::Local | Mark::Effect => "LocalCx",
        }
    }

    /// How the context is written.
    pub(crate) fn context_argument(self) -> &'static str {
        match self {
            Mark::Replicated | Mark::Timer => "cx: &mut Cx",
            Mark::Read => "cx: &ReadCx",
            Mark::Local | Mark::Effect => "cx: &LocalCx<Self>",
        }
    }

    /// How a method begins, for help.
    pub(crate) fn shape(self) -> &'static str {
        match self {
            Mark::Replicated | Mark::Timer => "(&mut self, cx: &mut Cx, ..)",
            Mark::Read => "(&self, cx: &ReadCx, ..)",
            Mark::Local | Mark::Effect => "(cx: &LocalCx<Self>, ..)",
        }
    }

    /// Whether clients may call it, and so whether it answers.
    pub(crate) fn is_callable(self) -> bool {
        matches!(self, Mark::Replicated | Mark::Read | Mark::Local)
    }

    /// The variant of `Mark` in trimaran-rpc.
    pub(crate) fn variant(self) -> TokenStream {
        match self {
            Mark::Replicated => quote!(Replicated),
            Mark::Read => quote!(Read),
            Mark::Local => quote!(Local),
            Mark::Timer => quote!(Timer),
            Mark::Effect => quote!(Effect),
        }
    }
}

/// Whether `path` is `name`, `trimaran_rpc::name` or `trimaran_rpc::prelude::name`.
pub(crate) fn is_ours(path: &Path, name: &str) -> bool {
    let segments: Vec<String> =
        path.segments.iter().map(|segment| segment.ident.to_token_stream().to_string()).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments[..] {
        [only] => only == name,
        ["trimaran_rpc" | "trimaran_macros", last] | ["trimaran_rpc", "prelude", last] => last == name,
        _ => false,
    }
}
