//! One argument of a method: how it is sent, received and handed to the handler.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Attribute, Ident, Pat, PatIdent, PatType, Type, TypeReference, parse_quote};

use super::mark::{Mark, is_ours};
use super::method::Owner;
use crate::mistakes::Mistakes;
use crate::types::{
    behind_references, find_token, is_plain, is_punct, is_word, last_segment, own_type, type_arguments,
};

/// Arguments are sent as one tuple, and serde knows tuples of this length.
pub(crate) const ARGUMENTS_MAX: usize = 16;

/// How the type relates to the bytes.
enum Form {
    /// Sent and handed over as it is.
    Owned,
    /// `&str`: borrows from the request.
    Text,
    /// `&[u8]`: borrows from the request.
    Bytes,
    /// `&T`: decoded as an owned type, then handed over by reference.
    Behind(Box<Behind>),
}

/// What a reference other than text and bytes is decoded as.
struct Behind {
    /// `Vec<T>` for `&[T]`.
    owned: Type,
    /// `T`, as the user wrote it.
    written: Type,
}

/// One argument after the context.
pub(crate) struct Argument {
    pub(crate) name: Ident,
    /// As written, with `Self` spelled out.
    pub(crate) ty: Type,
    pub(crate) is_shard_key: bool,
    form: Form,
}

impl Argument {
    /// Reads one argument and takes `#[shard_key]` off it. `None` after a mistake that leaves nothing to talk about.
    pub(crate) fn read(input: &mut PatType, mark: Mark, owner: &Owner, mistakes: &mut Mistakes) -> Option<Argument> {
        let is_shard_key = take_shard_key(&mut input.attrs, mark, mistakes);
        let name = match &*input.pat {
            Pat::Ident(PatIdent { by_ref: None, subpat: None, ident, .. }) => ident.clone(),
            pattern => {
                mistakes.add(
                    pattern,
                    "an argument of a method is a plain name: callers and tools pass it by that name",
                    "name it, and take it apart inside of the method",
                );
                return None;
            }
        };
        check_type(&input.ty, mistakes);
        let ty = own_type(&input.ty, &owner.path);
        let form = form_of(&input.ty, owner);
        Some(Argument { name, ty, is_shard_key, form })
    }

    /// Whether the sender's shard is found by this argument unless another is marked.
    pub(crate) fn is_natural_key(&self) -> bool {
        matches!(self.form, Form::Text | Form::Bytes)
    }

    /// The type that serde must know, as the user wrote it; `None` for text and bytes.
    pub(crate) fn written(&self) -> Option<&Type> {
        match &self.form {
            Form::Text | Form::Bytes => None,
            Form::Owned => Some(&self.ty),
            Form::Behind(behind) => Some(&behind.written),
        }
    }

    /// The type that the request is decoded as.
    pub(crate) fn decoded(&self) -> TokenStream {
        match &self.form {
            Form::Owned => self.ty.to_token_stream(),
            Form::Text => quote!(&::core::primitive::str),
            Form::Bytes => quote!(&[::core::primitive::u8]),
            Form::Behind(behind) => behind.owned.to_token_stream(),
        }
    }

    /// The decoded value as the handler takes it.
    pub(crate) fn passed(&self) -> TokenStream {
        let name = &self.name;
        match self.form {
            Form::Owned | Form::Text | Form::Bytes => quote!(#name),
            Form::Behind(_) => quote!(&#name),
        }
    }

    /// The caller's value as it is encoded.
    pub(crate) fn sent(&self) -> TokenStream {
        let name = &self.name;
        match self.form {
            Form::Bytes => quote!(::trimaran_rpc::generated::Bytes(#name)),
            Form::Owned | Form::Text | Form::Behind(_) => quote!(&#name),
        }
    }

    /// The owned type that a JSON value of this argument becomes.
    pub(crate) fn owned(&self) -> TokenStream {
        match &self.form {
            Form::Owned => self.ty.to_token_stream(),
            Form::Text => quote!(::std::string::String),
            Form::Bytes => quote!(::std::vec::Vec<::core::primitive::u8>),
            Form::Behind(behind) => behind.owned.to_token_stream(),
        }
    }

    /// Bytes may be given as text where people write JSON.
    pub(crate) fn is_bytes(&self) -> bool {
        match &self.form {
            Form::Bytes => true,
            Form::Owned => is_bytes_vector(&self.ty),
            Form::Behind(behind) => is_bytes_vector(&behind.owned),
            Form::Text => false,
        }
    }

    /// The bytes that decide the shard.
    pub(crate) fn shard_bytes(&self) -> TokenStream {
        let name = &self.name;
        let is_string = is_plain(behind_references(&self.ty), "String");
        match self.form {
            Form::Text => quote!(::core::primitive::str::as_bytes(#name)),
            Form::Bytes => quote!(#name),
            _ if is_string => quote!(#name.as_bytes()),
            _ if self.is_bytes() => quote!(&#name[..]),
            _ => quote!(&::trimaran_rpc::generated::request(&#name)),
        }
    }
}

fn is_bytes_vector(ty: &Type) -> bool {
    last_segment(ty).is_some_and(|segment| {
        segment.ident == "Vec" && matches!(&type_arguments(segment)[..], [element] if is_plain(element, "u8"))
    })
}

fn take_shard_key(attributes: &mut Vec<Attribute>, mark: Mark, mistakes: &mut Mistakes) -> bool {
    let mut found = false;
    for attribute in attributes.iter() {
        if attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr") {
            mistakes.add(
                attribute,
                "an argument cannot depend on how this program is built: requests have one form",
                "remove the condition",
            );
        }
        if !is_ours(attribute.path(), "shard_key") {
            continue;
        }
        found = true;
        if !mark.is_callable() {
            mistakes.add(
                attribute,
                format_args!("{} method stays in its shard and has no shard key", mark.with_article()),
                "remove `#[shard_key]`",
            );
        }
    }
    attributes.retain(|attribute| !is_ours(attribute.path(), "shard_key"));
    found
}

fn check_type(ty: &Type, mistakes: &mut Mistakes) {
    if find_token(ty, &|token| is_word(token, "impl") || is_word(token, "dyn")).is_some() {
        mistakes.add(
            ty,
            "an argument has one type: it is sent as bytes, in one form",
            "write the type out, such as `&str` or `Vec<u64>`",
        );
        return;
    }
    if find_token(ty, &|token| is_punct(token, '\'')).is_some() {
        mistakes.add(
            ty,
            "an argument has no lifetime of its own: it lives as long as the call",
            "write `&str` without a lifetime, or an owned type",
        );
        return;
    }
    let inside = match ty {
        Type::Reference(TypeReference { mutability: Some(_), .. }) => {
            mistakes.add(
                ty,
                "an argument cannot be changed for its caller, who is elsewhere",
                "take it by value, and return what has become of it",
            );
            return;
        }
        Type::Reference(reference) => &*reference.elem,
        other => other,
    };
    if find_token(inside, &|token| is_punct(token, '&')).is_some() {
        mistakes.add(
            ty,
            "an argument borrows as a whole or not at all",
            "take an owned type, such as `Option<String>` for `Option<&str>`",
        );
    }
}

fn form_of(ty: &Type, owner: &Owner) -> Form {
    let ty = match ty {
        Type::Group(group) => &*group.elem,
        other => other,
    };
    let Type::Reference(reference) = ty else { return Form::Owned };
    let own = |ty: &Type| own_type(ty, &owner.path);
    let (owned, written) = match &*reference.elem {
        text if is_plain(text, "str") => return Form::Text,
        Type::Slice(slice) if is_plain(&slice.elem, "u8") => return Form::Bytes,
        Type::Slice(slice) => {
            let element = own(&slice.elem);
            (parse_quote!(::std::vec::Vec<#element>), element)
        }
        path if is_plain(path, "Path") => (parse_quote!(::std::path::PathBuf), parse_quote!(::std::path::PathBuf)),
        other => (own(other), own(other)),
    };
    Form::Behind(Box::new(Behind { owned, written }))
}
