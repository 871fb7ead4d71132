//! Looking at types as they are written: a macro sees tokens, not what they mean.

use proc_macro2::{Delimiter, Group, Spacing, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{GenericArgument, Path, PathArguments, PathSegment, Type, TypeReference};

/// The last segment of a path type, `Cx` of `trimaran_rpc::Cx`.
pub(crate) fn last_segment(ty: &Type) -> Option<&PathSegment> {
    match ty {
        Type::Path(path) if path.qself.is_none() => path.path.segments.last(),
        Type::Group(group) => last_segment(&group.elem),
        Type::Paren(paren) => last_segment(&paren.elem),
        _ => None,
    }
}

/// The type parameters written after a segment, `[String, Entry]` of `BTreeMap<String, Entry>`.
pub(crate) fn type_arguments(segment: &PathSegment) -> Vec<&Type> {
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return Vec::new() };
    let types = arguments.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    });
    types.collect()
}

/// The type behind any number of references.
pub(crate) fn behind_references(ty: &Type) -> &Type {
    match ty {
        Type::Reference(TypeReference { elem, .. }) => behind_references(elem),
        Type::Group(group) => behind_references(&group.elem),
        Type::Paren(paren) => behind_references(&paren.elem),
        other => other,
    }
}

/// Whether the type is `name` with nothing around it.
pub(crate) fn is_plain(ty: &Type, name: &str) -> bool {
    last_segment(ty).is_some_and(|segment| segment.ident == name && segment.arguments.is_none())
}

/// Whether the type is `()`.
pub(crate) fn is_unit(ty: &Type) -> bool {
    matches!(ty, Type::Tuple(tuple) if tuple.elems.is_empty())
}

/// The first token, at any depth, for which `wanted` holds. A lifetime comes as its apostrophe.
pub(crate) fn find_token(tokens: &impl ToTokens, wanted: &dyn Fn(&TokenTree) -> bool) -> Option<TokenTree> {
    fn search(stream: TokenStream, wanted: &dyn Fn(&TokenTree) -> bool) -> Option<TokenTree> {
        stream.into_iter().find_map(|token| match &token {
            TokenTree::Group(group) => search(group.stream(), wanted),
            _ => wanted(&token).then_some(token),
        })
    }
    search(tokens.to_token_stream(), wanted)
}

pub(crate) fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

pub(crate) fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

/// The type with `Self` written out, so that it means the same in another impl block.
pub(crate) fn own_type(ty: &Type, own: &Path) -> Type {
    syn::parse2(without_self(ty.to_token_stream(), own)).unwrap_or_else(|_| ty.clone())
}

fn without_self(tokens: TokenStream, own: &Path) -> TokenStream {
    let replace = |token: TokenTree| match token {
        TokenTree::Ident(ident) if ident == "Self" => {
            let mut own = own.clone();
            if let Some(last) = own.segments.last_mut() {
                last.ident.set_span(ident.span());
            }
            own.into_token_stream()
        }
        TokenTree::Group(group) => {
            let mut inside = Group::new(group.delimiter(), without_self(group.stream(), own));
            inside.set_span(group.span());
            TokenTree::Group(inside).into()
        }
        other => other.into(),
    };
    tokens.into_iter().map(replace).collect()
}

/// A type as a person writes it, `Option<(u8, &str)>`: what schemas and command lines show.
pub(crate) fn text(tokens: &impl ToTokens) -> String {
    let mut out = String::new();
    write_text(tokens.to_token_stream(), &mut out);
    out
}

fn write_text(stream: TokenStream, out: &mut String) {
    let mut word_before = false;
    let mut joint = false;
    for token in stream {
        let word = matches!(token, TokenTree::Ident(_) | TokenTree::Literal(_));
        if word && word_before {
            out.push(' ');
        }
        match &token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::None => ("", ""),
                };
                out.push_str(open);
                write_text(group.stream(), out);
                out.push_str(close);
            }
            TokenTree::Punct(punct) => match punct.as_char() {
                character @ (',' | ';') => {
                    out.push(character);
                    out.push(' ');
                }
                // `->` comes as a joint minus; `=` and `+` stand alone in types.
                '-' => out.push_str(" -"),
                '>' if joint && out.ends_with('-') => out.push_str("> "),
                character @ ('+' | '=') => {
                    out.push(' ');
                    out.push(character);
                    out.push(' ');
                }
                character => out.push(character),
            },
            TokenTree::Ident(_) | TokenTree::Literal(_) => out.push_str(&token.to_string()),
        }
        joint = matches!(&token, TokenTree::Punct(punct) if punct.spacing() == Spacing::Joint);
        word_before = word;
    }
    let trimmed = out.trim_end().len();
    out.truncate(trimmed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    #[test]
    fn types_read_as_written() {
        for written in [
            "u64",
            "&str",
            "&[u8]",
            "Option<Duration>",
            "BTreeMap<String, (u8, Vec<Entry>)>",
            "[u8; 16]",
            "()",
            "crate::kv::Entry",
            "Box<dyn Fn(u8) -> u8 + Send>",
        ] {
            let ty: Type = syn::parse_str(written).expect(written);
            assert_eq!(text(&ty), written);
        }
    }

    #[test]
    fn self_is_written_out_at_every_depth() {
        let own: Path = parse_quote!(kv::Kv);
        let ty: Type = parse_quote!(Option<(Self, [Self; 2])>);
        assert_eq!(text(&own_type(&ty, &own)), "Option<(kv::Kv, [kv::Kv; 2])>");
    }
}
