//! What handlers start: `KvTimers` and `KvEffects`, functions that put a method key and its arguments together. And how any
//! generated function takes its arguments.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{Attribute, Ident, Visibility, parse_quote};

use super::Service;
use super::argument::Argument;
use super::mark::Mark;
use super::method::{Method, plain};

pub(super) fn expand(service: &Service) -> TokenStream {
    let timers = started(
        service,
        Mark::Timer,
        "Timers",
        &quote!(::trimaran_rpc::timers::Timer),
        "What a handler of `{}` sets with `cx.set_timer(at, ..)`: it fires in the log, on every replica.",
    );
    let effects = started(
        service,
        Mark::Effect,
        "Effects",
        &quote!(::trimaran_rpc::outbox::Effect),
        "What a handler of `{}` starts with `cx.after_commit(..)`: the leader runs it, at least once.",
    );
    quote!(#timers #effects)
}

fn started(service: &Service, mark: Mark, suffix: &str, product: &TokenStream, doc: &str) -> TokenStream {
    let methods: Vec<&Method> = service.methods.iter().filter(|method| method.mark == mark).collect();
    if methods.is_empty() {
        return TokenStream::new();
    }
    let ident = &service.ident;
    let collection = format_ident!("{}{suffix}", plain(ident), span = ident.span());
    let visibility = widest(&methods);
    let doc = doc.replace("{}", &ident.to_string());
    let bounds = service.bounds();
    let functions = methods.iter().map(|method| {
        let (attributes, visibility, name, key) = (&method.attributes, &method.visibility, &method.name, method.key);
        let (signature, _) = signature(method);
        let body = body(method);
        let attributes = attributes_of(attributes, method);
        quote_spanned! {Span::mixed_site()=>
            #(#attributes)*
            #visibility fn #name(#(#signature),*) -> #product {
                #product { method: #key, body: #body }
            }
        }
    });
    quote_spanned! {Span::mixed_site()=>
        #[doc = #doc]
        #[allow(dead_code)]
        #[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug)]
        #visibility struct #collection;

        #[allow(dead_code, trivial_bounds, clippy::all)]
        impl #collection
        where
            #bounds
        {
            #(#functions)*
        }
    }
}

/// The arguments as parameters, and their names to pass on.
pub(super) fn signature(method: &Method) -> (Vec<TokenStream>, Vec<&Ident>) {
    let parameter = |argument: &Argument| {
        let (name, ty) = (&argument.name, &argument.ty);
        quote!(#name: #ty)
    };
    (method.arguments.iter().map(parameter).collect(), method.arguments.iter().map(|argument| &argument.name).collect())
}

/// The encoded arguments.
fn body(method: &Method) -> TokenStream {
    let sent = method.arguments.iter().map(Argument::sent);
    quote_spanned!(method.name.span().resolved_at(Span::mixed_site())=>
        ::trimaran_rpc::generated::request(&(#(#sent,)*)))
}

/// The method's own documentation, or a line that names it.
pub(super) fn attributes_of(attributes: &[Attribute], method: &Method) -> Vec<Attribute> {
    let mut attributes = attributes.to_vec();
    if !attributes.iter().any(|attribute| attribute.path().is_ident("doc")) {
        let doc = format!("`{}`, a {} method.", method.plain_name(), method.mark.name());
        attributes.push(parse_quote!(#[doc = #doc]));
    }
    attributes
}

/// The visibility that lets everyone in who may see one of the methods.
pub(super) fn widest(methods: &[&Method]) -> Visibility {
    let rank = |visibility: &Visibility| match visibility {
        Visibility::Public(_) => 3,
        Visibility::Restricted(within) if within.path.is_ident("crate") => 2,
        Visibility::Restricted(within) if within.path.is_ident("self") => 0,
        Visibility::Restricted(_) => 1,
        Visibility::Inherited => 0,
    };
    let text = |visibility: &Visibility| visibility.to_token_stream().to_string();
    let widest = methods.iter().map(|method| &method.visibility).max_by_key(|visibility| rank(visibility));
    let mut restricted =
        methods.iter().map(|method| &method.visibility).filter(|visibility| rank(visibility) == 1).map(text);
    let first = restricted.next();
    match widest {
        // Two different modules: one visibility that covers both is that of the crate.
        Some(found) if rank(found) == 1 && restricted.any(|other| Some(other) != first) => parse_quote!(pub(crate)),
        Some(found) => found.clone(),
        None => Visibility::Inherited,
    }
}
