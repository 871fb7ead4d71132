//! The caller's half: a client with one function for each method, and the calls themselves.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};

use super::Service;
use super::argument::Argument;
use super::method::{Method, plain};
use super::started::{attributes_of, signature, widest};

pub(super) fn expand(service: &Service) -> TokenStream {
    let methods: Vec<&Method> = service.methods.iter().filter(|method| method.mark.is_callable()).collect();
    let (ident, name) = (&service.ident, &service.owner.name);
    let client = format_ident!("{}Client", plain(ident), span = ident.span());
    let calls = format_ident!("{}Calls", plain(ident), span = ident.span());
    let visibility = widest(&methods);
    let client_doc = format!(
        "Calls the service `{name}`: one function for each method of `{ident}` that clients may call. Cheap to clone."
    );
    let calls_doc = format!("Calls of the service `{name}` as values: for whoever sends them another way.");
    let connect_doc = "Connects to the servers at these addresses, `\"10.0.0.1:8000,10.0.0.2:8000\"`, in the background.\n\n# Errors\nAddresses that are none, or a socket that the system refuses.";
    let bounds = service.bounds();
    let functions = methods.iter().map(|method| {
        let (attributes, visibility, name) = (&method.attributes, &method.visibility, &method.name);
        let (signature, names) = signature(method);
        let (kind, value, error) = types(method);
        let attributes = attributes_of(attributes, method);
        quote_spanned! {Span::mixed_site()=>
            #(#attributes)*
            #visibility fn #name(&self #(, #signature)*) -> ::trimaran_rpc::client::Call<Via, #kind, #value, #error> {
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
        let sent = method.arguments.iter().map(Argument::sent);
        let encode = if method.returns.error.is_some() { quote!(encode) } else { quote!(encode_plain) };
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
                ::trimaran_rpc::client::Request::#encode(#key, &(#(#sent,)*), #shard)
            }
        }
    });
    quote_spanned! {Span::mixed_site()=>
        #[doc = #client_doc]
        #[allow(dead_code)]
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #visibility struct #client<Via = ::trimaran_rpc::client::Remote> {
            caller: Via,
        }

        #[allow(dead_code, deprecated, trivial_bounds, clippy::all)]
        impl<Via: ::trimaran_rpc::client::Caller> #client<Via>
        where
            #bounds
        {
            /// Calls through `caller`: a client of this core, or one of any thread.
            #visibility fn on(caller: Via) -> Self {
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

        #[allow(dead_code, trivial_bounds, clippy::all)]
        impl #calls
        where
            #bounds
        {
            #(#requests)*
        }
    }
}

/// Kind, value and error of a call.
fn types(method: &Method) -> (TokenStream, TokenStream, TokenStream) {
    let mark = method.mark.variant();
    let kind = quote!(::trimaran_rpc::client::#mark);
    let value = &method.returns.value;
    let error = match &method.returns.error {
        Some(error) => error.to_token_stream(),
        None => quote!(::core::convert::Infallible),
    };
    (kind, quote!(#value), error)
}

/// The argument marked `#[shard_key]`, else the first that is text or bytes.
fn shard_key(method: &Method) -> Option<&Argument> {
    let marked = method.arguments.iter().find(|argument| argument.is_shard_key);
    marked.or_else(|| method.arguments.iter().find(|argument| argument.is_natural_key()))
}
