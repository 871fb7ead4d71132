//! `#[trimaran_rpc::test]`: an async function of a simulator becomes a test over many seeds.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::{FnArg, ItemFn, Pat, PatIdent, PatType, ReturnType};

use crate::mistakes::{Mistakes, beside};
use crate::options::Options;
use crate::service::plain;
use crate::types::{is_unit, last_segment, type_arguments};

/// Enough to meet the common orders of events, few enough to run with every build.
const SEEDS: u64 = 100;
/// More is the work of a soak, not of a test.
const SEEDS_MAX: u64 = 1_000_000;

pub(crate) fn expand(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut mistakes = Mistakes::default();
    let mut options = Options::of_macro("#[trimaran_rpc::test]", options, &mut mistakes);
    let seeds = options.number("seeds", 1, SEEDS_MAX, &mut mistakes).unwrap_or(SEEDS);
    options.finish(&["seeds = 200"], &mut mistakes);
    let function: ItemFn = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(_) => {
            let first = item.clone().into_iter().next();
            mistakes.add(
                first.to_token_stream(),
                "`#[trimaran_rpc::test]` stands on a function",
                "write `async fn survives(sim: Sim<Kv>) { .. }`",
            );
            return beside(mistakes, item);
        }
    };
    let sim = shape(&function, &mut mistakes);
    let (attributes, visibility, name, body) = (&function.attrs, &function.vis, &function.sig.ident, &function.block);
    let text = plain(name);
    let Some(sim) = sim.filter(|_| mistakes.is_empty()) else {
        // The function as it is would be dead code, and its shape a second complaint.
        return beside(mistakes, TokenStream::new());
    };
    let run = quote_spanned!(Span::mixed_site()=> ::trimaran_rpc::sim::run_seeds);
    quote! {
        #(#attributes)*
        #[::core::prelude::v1::test]
        #visibility fn #name() {
            #run(#text, #seeds, |#sim| async move #body);
        }
    }
}

/// The parameter, when the function looks as it should.
fn shape<'f>(function: &'f ItemFn, mistakes: &mut Mistakes) -> Option<&'f PatType> {
    let signature = &function.sig;
    let name = &signature.ident;
    let example = format!("write `async fn {name}(sim: Sim<Kv>)`");
    if signature.asyncness.is_none() {
        let token = &signature.fn_token;
        mistakes.add(quote!(#token #name), "a test in the simulator is async: it awaits its clients", &example);
    }
    if !signature.generics.params.is_empty() {
        mistakes.add(&signature.generics.params, "a test is not generic: nobody calls it", "remove the parameters");
    }
    if let ReturnType::Type(_, ty) = &signature.output
        && !is_unit(ty)
    {
        mistakes.add(&signature.output, "a test returns nothing: it fails by panicking", "remove the return type");
    }
    for attribute in &function.attrs {
        if attribute.path().is_ident("test") {
            mistakes.add(attribute, "`#[trimaran_rpc::test]` makes a test of it already", "remove `#[test]`");
        }
    }
    let is_sim = |typed: &PatType| {
        let is_type =
            last_segment(&typed.ty).is_some_and(|segment| segment.ident == "Sim" && type_arguments(segment).len() == 1);
        is_type && matches!(&*typed.pat, Pat::Ident(PatIdent { by_ref: None, subpat: None, .. }) | Pat::Wild(_))
    };
    let inputs: Vec<&FnArg> = signature.inputs.iter().collect();
    match inputs[..] {
        [FnArg::Typed(typed)] if is_sim(typed) => Some(typed),
        [] => {
            mistakes.add(name, "a test in the simulator takes the simulator", example);
            None
        }
        _ => {
            mistakes.add(&signature.inputs, "a test in the simulator takes the simulator and nothing else", example);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_runs_its_body_for_each_seed() {
        let item = quote! {
            #[ignore]
            async fn survives(mut sim: Sim<Kv>) { sim.nodes(3); }
        };
        let expected = quote! {
            #[ignore]
            #[::core::prelude::v1::test]
            fn survives() {
                ::trimaran_rpc::sim::run_seeds("survives", 200u64, |mut sim: Sim<Kv>| async move { sim.nodes(3); });
            }
        };
        assert_eq!(expand(quote!(seeds = 200), item.clone()).to_string(), expected.to_string());
        let by_default = expected.to_string().replace("200u64", "100u64");
        assert_eq!(expand(TokenStream::new(), item).to_string(), by_default);
    }
}
