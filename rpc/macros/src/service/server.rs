//! The server's half: `impl Service`, from a method key and bytes to the user's method and back.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;

use super::Service;
use super::key::method_key;
use super::mark::Mark;
use super::method::{Method, plain};
use crate::types::text;

pub(super) fn expand(service: &Service) -> TokenStream {
    let own = &service.owner.path;
    let name = &service.owner.name;
    let raw = service.is_raw.then(|| method_key(name, "raw", 1));
    let raw = raw.as_slice();
    let marks = service.methods.iter().map(|method| {
        let (key, mark) = (method.key, method.mark.variant());
        quote_spanned!(Span::mixed_site()=>
            #key => ::core::option::Option::Some(::trimaran_rpc::service::Mark::#mark),)
    });
    let records = service.methods.iter().map(record);
    let of = |marks: &[Mark]| -> Vec<&Method> {
        service.methods.iter().filter(|method| marks.contains(&method.mark)).collect()
    };
    let applied = of(&[Mark::Replicated, Mark::Timer]);
    let applied = applied.iter().map(|method| {
        let call = call(method, &quote_spanned!(Span::mixed_site()=> self.), &quote_spanned!(Span::mixed_site()=> cx));
        let decoded = decoded(method, &quote_spanned!(Span::mixed_site()=> request));
        let answer = answer(method, &quote_spanned!(Span::mixed_site()=> #call.await));
        arm(method, &quote_spanned!(Span::mixed_site()=> #decoded #answer))
    });
    let queried = of(&[Mark::Read]);
    let queried = queried.iter().map(|method| {
        let call = call(method, &quote_spanned!(Span::mixed_site()=> self.), &quote_spanned!(Span::mixed_site()=> cx));
        let decoded = decoded(method, &quote_spanned!(Span::mixed_site()=> request));
        let answer = answer(method, &quote_spanned!(Span::mixed_site()=> ::trimaran_rpc::generated::in_one_go(#call)));
        arm(method, &quote_spanned!(Span::mixed_site()=> #decoded #answer))
    });
    let bounds = service.bounds();
    let local = local(&of(&[Mark::Local]), service);
    let effect = effect(&of(&[Mark::Effect]), service);
    quote_spanned! {Span::mixed_site()=>
        #[automatically_derived]
        #[allow(unused_variables, trivial_bounds, clippy::all)]
        impl ::trimaran_rpc::service::Service for #own
        where
            #bounds
        {
            const NAME: &'static str = #name;

            fn mark(method: u32) -> ::core::option::Option<::trimaran_rpc::service::Mark> {
                match method {
                    #(#marks)*
                    #(0 | #raw => ::core::option::Option::Some(::trimaran_rpc::service::Mark::Raw),)*
                    _ => ::core::option::Option::None,
                }
            }

            fn methods() -> &'static [::trimaran_rpc::service::Method] {
                const { &[#(#records),*] }
            }

            async fn apply(
                &mut self,
                cx: &mut ::trimaran_rpc::service::Cx,
                request: &[u8],
                reply: &mut ::std::vec::Vec<u8>,
            ) -> ::trimaran_rpc::service::Answer {
                match cx.method() {
                    #(#applied)*
                    #(0 | #raw => {
                        ::trimaran_rpc::service::RawHandler::apply(self, cx, request, reply);
                        ::trimaran_rpc::service::Answer::Ok
                    })*
                    _ => ::trimaran_rpc::generated::UNKNOWN_METHOD,
                }
            }

            fn query(
                &self,
                cx: &::trimaran_rpc::service::ReadCx,
                request: &[u8],
                reply: &mut ::std::vec::Vec<u8>,
            ) -> ::trimaran_rpc::service::Answer {
                match cx.method() {
                    #(#queried)*
                    #(0 | #raw => {
                        ::trimaran_rpc::service::RawHandler::query(self, cx, request, reply);
                        ::trimaran_rpc::service::Answer::Ok
                    })*
                    _ => ::trimaran_rpc::generated::UNKNOWN_METHOD,
                }
            }

            #local
            #effect
        }
    }
}

fn local(methods: &[&Method], service: &Service) -> TokenStream {
    if methods.is_empty() {
        return TokenStream::new();
    }
    let own = &service.owner.path;
    let arms = methods.iter().map(|method| {
        let call =
            call(method, &quote_spanned!(Span::mixed_site()=> #own::), &quote_spanned!(Span::mixed_site()=> &cx));
        let decoded = decoded(method, &quote_spanned!(Span::mixed_site()=> request));
        let answer = answer(method, &quote_spanned!(Span::mixed_site()=> #call.await));
        arm(method, &quote_spanned!(Span::mixed_site()=> #decoded #answer))
    });
    quote_spanned! {Span::mixed_site()=>
        async fn local(
            cx: ::trimaran_rpc::service::LocalCx<Self>,
            request: ::std::vec::Vec<u8>,
        ) -> (::trimaran_rpc::service::Answer, ::std::vec::Vec<u8>) {
            let mut buffer = ::std::vec::Vec::new();
            let reply = &mut buffer;
            let request = &request[..];
            let answer = async {
                match cx.method() {
                    #(#arms)*
                    _ => ::trimaran_rpc::generated::UNKNOWN_METHOD,
                }
            };
            let answer = answer.await;
            (answer, buffer)
        }
    }
}

fn effect(methods: &[&Method], service: &Service) -> TokenStream {
    if methods.is_empty() {
        return TokenStream::new();
    }
    let own = &service.owner.path;
    let arms = methods.iter().map(|method| {
        let key = method.key;
        let call =
            call(method, &quote_spanned!(Span::mixed_site()=> #own::), &quote_spanned!(Span::mixed_site()=> &cx));
        let (pattern, types) = arguments(method);
        quote_spanned!(Span::mixed_site()=>
        #key => match ::trimaran_rpc::generated::arguments::<#types>(effect) {
            ::core::result::Result::Ok(#pattern) => {
                #call.await;
                ::trimaran_rpc::service::Answer::Ok
            }
            ::core::result::Result::Err(_) => {
                ::trimaran_rpc::service::Answer::Refused(::trimaran_rpc::r2p2::Refusal::BadArguments)
            }
        })
    });
    quote_spanned! {Span::mixed_site()=>
        async fn effect(
            cx: ::trimaran_rpc::service::LocalCx<Self>,
            effect: ::std::vec::Vec<u8>,
        ) -> ::trimaran_rpc::service::Answer {
            let effect = &effect[..];
            match cx.method() {
                #(#arms)*
                _ => ::trimaran_rpc::service::Answer::Refused(::trimaran_rpc::r2p2::Refusal::UnknownMethod),
            }
        }
    }
}

fn arm(method: &Method, body: &TokenStream) -> TokenStream {
    let key = method.key;
    quote_spanned!(Span::mixed_site()=> #key => { #body })
}

/// The arguments as a pattern and as a type to decode.
fn arguments(method: &Method) -> (TokenStream, TokenStream) {
    let names = method.arguments.iter().map(|argument| &argument.name);
    let types = method.arguments.iter().map(super::argument::Argument::decoded);
    (quote_spanned!(Span::mixed_site()=> (#(#names,)*)), quote_spanned!(Span::mixed_site()=> (#(#types,)*)))
}

/// Statements after which the arguments are variables of their own names.
fn decoded(method: &Method, from: &TokenStream) -> TokenStream {
    let (pattern, types) = arguments(method);
    quote_spanned! {method.name.span().resolved_at(Span::mixed_site())=>
        let #pattern = match ::trimaran_rpc::generated::arguments::<#types>(#from) {
            ::core::result::Result::Ok(arguments) => arguments,
            ::core::result::Result::Err(refused) => return refused,
        };
    }
}

/// The user's method on its decoded arguments; a future.
fn call(method: &Method, on: &TokenStream, context: &TokenStream) -> TokenStream {
    let name = &method.name;
    let passed = method.arguments.iter().map(super::argument::Argument::passed);
    quote_spanned!(Span::mixed_site()=> #on #name(#context #(, #passed)*))
}

/// From what the method has returned to an answer and a reply.
fn answer(method: &Method, returned: &TokenStream) -> TokenStream {
    let span = method.name.span().resolved_at(Span::mixed_site());
    match &method.returns.error {
        None => quote_spanned!(span=> ::trimaran_rpc::generated::value(&#returned, reply)),
        Some(_) => quote_spanned!(span=> ::trimaran_rpc::generated::result(&#returned, reply)),
    }
}

/// The method for people and tools.
fn record(method: &Method) -> TokenStream {
    let (key, rev, name, doc) = (method.key, method.rev, method.plain_name(), method.doc());
    let mark = method.mark.variant();
    let names: Vec<String> = method.arguments.iter().map(|argument| plain(&argument.name)).collect();
    let kinds: Vec<String> = method.arguments.iter().map(|argument| text(&argument.ty)).collect();
    let taken = method.arguments.iter().zip(&names).map(|(argument, name)| {
        let owned = argument.owned();
        if argument.is_bytes() {
            quote_spanned!(Span::mixed_site()=> arguments.take_bytes(#name)?,)
        } else {
            quote_spanned!(Span::mixed_site()=> arguments.take::<#owned>(#name)?,)
        }
    });
    let value = &method.returns.value;
    let (returns, decode) = match &method.returns.error {
        None => (text(value), quote_spanned!(Span::mixed_site()=> ::trimaran_rpc::generated::value_json::<#value>)),
        Some(error) => (
            format!("Result<{}, {}>", text(value), text(error)),
            quote_spanned!(Span::mixed_site()=> ::trimaran_rpc::generated::result_json::<#value, #error>),
        ),
    };
    quote_spanned! {Span::mixed_site()=>
        ::trimaran_rpc::service::Method {
            key: #key,
            name: #name,
            rev: #rev,
            mark: ::trimaran_rpc::service::Mark::#mark,
            doc: #doc,
            arguments: &[#(::trimaran_rpc::service::Argument { name: #names, kind: #kinds }),*],
            returns: #returns,
            encode_json: |text| {
                let mut arguments = ::trimaran_rpc::generated::JsonArguments::parse(text, &[#(#names),*])?;
                ::trimaran_rpc::generated::encode(&(#(#taken)*))
            },
            decode_json: #decode,
        }
    }
}
