//! `check_schema!`: a test that compares a service's methods with a file.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::parse::{Parse, ParseStream};
use syn::{LitStr, Path, Token};

use crate::mistakes::Mistakes;
use crate::service::{plain, snake_case};

/// `Kv, "schema/kv.txt"`
struct Input {
    service: Path,
    file: LitStr,
}

impl Parse for Input {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let service = input.parse()?;
        input.parse::<Token![,]>()?;
        let file = input.parse()?;
        input.parse::<Option<Token![,]>>()?;
        Ok(Input { service, file })
    }
}

pub(crate) fn expand(tokens: TokenStream) -> TokenStream {
    let mut mistakes = Mistakes::default();
    let input: Input = match syn::parse2(tokens.clone()) {
        Ok(input) => input,
        Err(_) => {
            mistakes.add(
                tokens,
                "`check_schema!` takes a service and the path of a file",
                "write `trimaran_rpc::check_schema!(Kv, \"schema/kv.txt\");`",
            );
            return mistakes.into_tokens();
        }
    };
    let path = input.file.value();
    if path.is_empty() || path.starts_with('/') || path.split('/').any(|part| part == "..") {
        mistakes.add(
            &input.file,
            "the file lies in this crate: its path is relative to Cargo.toml",
            "write a path such as \"schema/kv.txt\"",
        );
        return mistakes.into_tokens();
    }
    let (service, file) = (&input.service, &input.file);
    let last = service.segments.last().map(|segment| plain(&segment.ident)).unwrap_or_default();
    let name = format_ident!("schema_of_{}", snake_case(&last));
    quote! {
        #[cfg(test)]
        #[::core::prelude::v1::test]
        fn #name() {
            let file = ::core::concat!(::core::env!("CARGO_MANIFEST_DIR"), "/", #file);
            if let ::core::result::Result::Err(change) = ::trimaran_rpc::schema::check::<#service>(file) {
                ::core::panic!("{change}");
            }
        }
    }
}
