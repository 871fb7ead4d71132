//! The caller's half: a client with one function for each method, the calls themselves, and what a handler starts.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::{Attribute, Ident, Visibility, parse_quote};

use super::Service;
use super::argument::Argument;
use super::mark::Mark;
use super::method::{Method, Returns, plain};

pub(super) fn expand(service: &Service) -> TokenStream {
    let callable: Vec<&Method> = service.methods.iter().filter(|method| method.mark.is_callable()).collect();
    let of = |mark: Mark| -> Vec<&Method> { service.methods.iter().filter(|method| method.mark == mark).collect() };
    let client = client(service, &callable);
    let timers = started(
        service,
        &of(Mark::Timer),
        "Timers",
        "Timer",
        "What a handler of `{}` sets with `cx.set_timer(at, ..)`: it fires in the log, on every replica.",
    );
    let effects = started(
        service,
        &of(Mark::Effect),
        "Effects",
        "Effect",
        "What a handler of `{}` starts with `cx.after_commit(..)`: the leader runs it, at least once.",
    );
    quote!(#client #timers #effects)
}

fn client(service: &Service, methods: &[&Method]) -> TokenStream {
    let (ident, name) = (&service.ident, &service.owner.name);
    let client = format_ident!("{}Client", plain(ident), span = ident.span());
    let calls = format_ident!("{}Calls", plain(ident), span = ident.span());
    let visibility = widest(methods);
    let client_doc = format!(
        "Calls the service `{name}`: one function for each method of [`{ident}`] that clients may call. Cheap to clone."
    );
    let calls_doc = format!("Calls of the service `{name}` as values: for whoever sends them another way.");
    let connect_doc = "Connects to the servers at these addresses, `\"10.0.0.1:8000,10.0.0.2:8000\"`, in the background.\n\n# Errors\nAddresses that are none, or a socket that the system refuses.";
    let functions = methods.iter().map(|method| {
        let (attributes, visibility, name) = (&method.attributes, &method.visibility, &method.name);
        let (signature, names) = signature(method);
        let (kind, value, error) = types(method);
        let attributes = attributes_of(attributes, method);
        quote_spanned! {Span::mixed_site()=>
            #(#attributes)*
            #visibility fn #name(&self #(, #signature)*) -> ::trimaran_rpc::client::Call<C, #kind, #value, #error> {
                ::trimaran_rpc::client::Call::new(
                    ::core::clone::Clone::clone(&self.caller),
                    #calls::#name(#(#names),*),
                )
            }
        }
    });
    let requests = methods.iter().map(|method| {
        let (attributes, visibility, name, key) = (&method.attributes, &method.visibility, &method.name, method.key);
        let (signature, _) = signature(method);
        let (kind, value, error) = types(method);
        let body = body(method);
        let shard = match shard_key(method) {
            Some(argument) => {
                let bytes = argument.shard_bytes();
                quote_spanned!(Span::mixed_site()=>
                    ::core::option::Option::Some(::trimaran_rpc::generated::shard_key(#bytes)))
            }
            None => quote_spanned!(Span::mixed_site()=> ::core::option::Option::None),
        };
        let attributes = attributes_of(attributes, method);
        quote_spanned! {Span::mixed_site()=>
            #(#attributes)*
            #visibility fn #name(#(#signature),*) -> ::trimaran_rpc::client::Request<#kind, #value, #error> {
                let shard = #shard;
                let body = #body;
                ::trimaran_rpc::client::Request::new(#key, body, shard)
            }
        }
    });
    quote_spanned! {Span::mixed_site()=>
        #[doc = #client_doc]
        #[allow(dead_code)]
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #visibility struct #client<C = ::trimaran_rpc::client::Remote> {
            caller: C,
        }

        #[allow(dead_code, deprecated, clippy::all)]
        impl<C: ::trimaran_rpc::client::Caller> #client<C> {
            /// Calls through `caller`: a client of this core, or one of any thread.
            #visibility fn on(caller: C) -> Self {
                #client { caller }
            }

            #(#functions)*
        }

        #[allow(dead_code)]
        impl #client {
            #[doc = #connect_doc]
            #visibility fn connect(
                servers: &str,
            ) -> ::core::result::Result<Self, ::trimaran_rpc::client::ConnectError> {
                ::core::result::Result::Ok(#client { caller: ::trimaran_rpc::client::Remote::connect(servers)? })
            }
        }

        #[doc = #calls_doc]
        #[allow(dead_code)]
        #[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug)]
        #visibility struct #calls;

        #[allow(dead_code, clippy::all)]
        impl #calls {
            #(#requests)*
        }
    }
}

/// `KvTimers` and `KvEffects`: functions that only put the arguments together.
fn started(service: &Service, methods: &[&Method], suffix: &str, product: &str, doc: &str) -> TokenStream {
    if methods.is_empty() {
        return TokenStream::new();
    }
    let ident = &service.ident;
    let collection = format_ident!("{}{suffix}", plain(ident), span = ident.span());
    let product = Ident::new(product, Span::mixed_site());
    let visibility = widest(methods);
    let doc = doc.replace("{}", &ident.to_string());
    let functions = methods.iter().map(|method| {
        let (attributes, visibility, name, key) = (&method.attributes, &method.visibility, &method.name, method.key);
        let (signature, _) = signature(method);
        let body = body(method);
        let attributes = attributes_of(attributes, method);
        quote_spanned! {Span::mixed_site()=>
            #(#attributes)*
            #visibility fn #name(#(#signature),*) -> ::trimaran_rpc::service::#product {
                ::trimaran_rpc::service::#product { method: #key, body: #body }
            }
        }
    });
    quote_spanned! {Span::mixed_site()=>
        #[doc = #doc]
        #[allow(dead_code)]
        #[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug)]
        #visibility struct #collection;

        #[allow(dead_code, clippy::all)]
        impl #collection {
            #(#functions)*
        }
    }
}

/// The arguments as parameters, and their names to pass on.
fn signature(method: &Method) -> (Vec<TokenStream>, Vec<&Ident>) {
    let parameter = |argument: &Argument| {
        let (name, ty) = (&argument.name, &argument.ty);
        quote!(#name: #ty)
    };
    (method.arguments.iter().map(parameter).collect(), method.arguments.iter().map(|argument| &argument.name).collect())
}

/// Kind, value and error of a call.
fn types(method: &Method) -> (TokenStream, TokenStream, TokenStream) {
    let mark = method.mark.variant();
    let kind = quote!(::trimaran_rpc::client::#mark);
    match &method.returns {
        Returns::Plain(value) => (kind, quote!(#value), quote!(::core::convert::Infallible)),
        Returns::Result(value, error) => (kind, quote!(#value), quote!(#error)),
    }
}

fn body(method: &Method) -> TokenStream {
    let sent = method.arguments.iter().map(Argument::sent);
    quote_spanned!(method.name.span().resolved_at(Span::mixed_site())=>
        ::trimaran_rpc::generated::request(&(#(#sent,)*)))
}

/// The argument marked `#[shard_key]`, else the first that is text or bytes.
fn shard_key(method: &Method) -> Option<&Argument> {
    let marked = method.arguments.iter().find(|argument| argument.is_shard_key);
    marked.or_else(|| method.arguments.iter().find(|argument| argument.is_natural_key()))
}

/// The method's own documentation, or a line that names it.
fn attributes_of(attributes: &[Attribute], method: &Method) -> Vec<Attribute> {
    let mut attributes = attributes.to_vec();
    if !attributes.iter().any(|attribute| attribute.path().is_ident("doc")) {
        let doc = format!("`{}`, a {} method.", method.plain_name(), method.mark.name());
        attributes.push(parse_quote!(#[doc = #doc]));
    }
    attributes
}

/// The visibility that lets everyone in who may see one of the methods.
fn widest(methods: &[&Method]) -> Visibility {
    let rank = |visibility: &Visibility| match visibility {
        Visibility::Public(_) => 3,
        Visibility::Restricted(within) if within.path.is_ident("crate") => 2,
        Visibility::Restricted(within) if within.path.is_ident("self") => 0,
        Visibility::Restricted(_) => 1,
        Visibility::Inherited => 0,
    };
    let widest = methods.iter().map(|method| &method.visibility).max_by_key(|visibility| rank(visibility));
    let mut restricted = methods.iter().map(|method| &method.visibility).filter(|visibility| rank(visibility) == 1);
    let first = restricted.next();
    match widest {
        // Two different modules: one visibility that covers both is that of the crate.
        Some(found) if rank(found) == 1 && restricted.any(|other| Some(other) != first) => parse_quote!(pub(crate)),
        Some(found) => found.clone(),
        None => Visibility::Inherited,
    }
}
