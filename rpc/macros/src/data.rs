//! `#[data]`: serde's traits by way of trimaran-rpc.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::punctuated::Punctuated;
use syn::{Data, DeriveInput, Path, Token};

use crate::mistakes::{Mistakes, beside};
use crate::options::Options;

pub(crate) fn expand(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut mistakes = Mistakes::default();
    Options::of_macro("#[data]", options, &mut mistakes).finish(&[], &mut mistakes);
    let input: DeriveInput = match syn::parse2(item.clone()) {
        Ok(input) => input,
        Err(_) => {
            let first = item.clone().into_iter().next();
            mistakes.add(
                first.to_token_stream(),
                "`#[data]` stands on a struct or an enum",
                "write it above the type that travels in calls",
            );
            return beside(mistakes, item);
        }
    };
    if let Data::Union(data) = &input.data {
        mistakes.add(data.union_token, "a union has no form as bytes", "use an enum");
        return beside(mistakes, item);
    }
    let mut has_one = false;
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("derive")) {
        let derived = attribute.parse_args_with(Punctuated::<Path, Token![,]>::parse_terminated).unwrap_or_default();
        for path in derived {
            let last = path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default();
            if last == "Serialize" || last == "Deserialize" {
                has_one = true;
                mistakes.add(&path, format_args!("`#[data]` derives `{last}` already"), "remove it here");
            }
        }
    }
    if has_one {
        return beside(mistakes, item);
    }
    beside(
        mistakes,
        quote! {
            #[derive(::trimaran_rpc::serde::Serialize, ::trimaran_rpc::serde::Deserialize)]
            #[serde(crate = "::trimaran_rpc::serde")]
            #input
        },
    )
}
