//! `#[service]`: from an impl block to a service, and to the client of it.

mod argument;
mod client;
mod key;
mod mark;
mod method;
mod scan;
mod server;
mod started;

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Ident, ImplItem, ItemImpl, Path, PathArguments, Type};

pub(crate) use key::snake_case;
pub(crate) use mark::Mark;
pub(crate) use method::plain;

use crate::mistakes::{Mistakes, beside};
use crate::options::Options;
use crate::types;
use key::method_key;
use method::{Method, Owner};

/// Longest name of a service, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// What every node answers, beside its service.
const OWN_METHODS: [&str; 4] = ["register", "probe", "init", "status"];

/// What the impl block says, once its mistakes have been taken out.
struct Service {
    owner: Owner,
    /// The last segment of the type, from which generated names are made.
    ident: Ident,
    /// Bytes beside the typed methods.
    is_raw: bool,
    methods: Vec<Method>,
}

impl Service {
    /// Bounds for generated impl blocks: every type that is sent can be. Where one cannot, the compiler complains about the
    /// bound, at the user's type, and takes it for granted inside of the block.
    fn bounds(&self) -> TokenStream {
        let mut seen = BTreeSet::new();
        let mut bounds = TokenStream::new();
        for method in &self.methods {
            let arguments = method.arguments.iter().filter_map(argument::Argument::written);
            let returns = [Some(&method.returns.value), method.returns.error.as_ref()];
            for ty in arguments.chain(returns.into_iter().flatten()) {
                if !types::is_unit(ty) && seen.insert(types::text(ty)) {
                    let span = ty.span().resolved_at(Span::mixed_site());
                    bounds.extend(quote_spanned!(span=> #ty: ::trimaran_rpc::generated::Data,));
                }
            }
        }
        bounds
    }
}

/// Expands `#[service(options)] item`.
pub(crate) fn expand(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut mistakes = Mistakes::default();
    let mut block: ItemImpl = match syn::parse2(item.clone()) {
        Ok(block) => block,
        Err(error) => {
            if syn::parse2::<syn::Item>(item.clone()).is_ok() {
                let first = item.clone().into_iter().next();
                mistakes.add(
                    first.to_token_stream(),
                    "`#[service]` stands on an `impl` block",
                    "write it above `impl Kv { .. }`, the block with the marked methods",
                );
            } else {
                mistakes.push(error);
            }
            return beside(mistakes, item);
        }
    };
    let service = read(options, &mut block, &mut mistakes);
    let generated = service.map(|service| {
        let server = server::expand(&service);

        let client = client::expand(&service);
        let started = started::expand(&service);
        quote!(#server #client #started)
    });
    beside(mistakes, quote!(#block #generated))
}

/// A mark that no `#[service]` has read: it stands alone, or outside of a service.
pub(crate) fn expand_mark(mark: Mark, item: TokenStream) -> TokenStream {
    let name = mark.name();
    let text = format!(
        "`#[{name}]` marks a method of a service\nhelp: write `#[service]` above the `impl` block of the method"
    );
    let error = quote_spanned!(Span::call_site()=> ::core::compile_error! { #text });
    quote!(#error #item)
}

/// Reads the block and takes our attributes off it. `None`: nothing can be generated for this type.
fn read(options: TokenStream, block: &mut ItemImpl, mistakes: &mut Mistakes) -> Option<Service> {
    let mut options = Options::of_macro("#[service]", options, mistakes);
    let is_raw = options.flag("raw", mistakes);
    let given = options.text("name", "kv", mistakes);
    options.finish(&["name = \"kv\"", "raw"], mistakes);

    let path = own_path(block, mistakes);
    let ident = path.as_ref().and_then(|path| path.segments.last()).map(|segment| segment.ident.clone());
    let name = match (&given, &ident) {
        (Some(literal), _) => {
            let name = literal.value();
            check_name(literal, &name, mistakes);
            name
        }
        (None, Some(ident)) => {
            let name = snake_case(&plain(ident));
            check_name(ident, &name, mistakes);
            name
        }
        (None, None) => String::new(),
    };
    let can_generate = path.is_some();
    let path = path.unwrap_or_else(|| Path::from(Ident::new("Self", Span::call_site())));
    let owner = Owner { name, path };
    let methods = methods(block, &owner, is_raw, mistakes);
    let ident = ident.filter(|_| can_generate)?;
    Some(Service { owner, ident, is_raw, methods })
}

/// The type, a plain path. `None`: this is no inherent impl of one plain type.
fn own_path(block: &ItemImpl, mistakes: &mut Mistakes) -> Option<Path> {
    let before = mistakes.len();
    if let Some((_, of, _)) = &block.trait_ {
        mistakes.add(
            of,
            "`#[service]` stands on the type's own `impl` block, not on that of a trait",
            "write the methods in `impl Kv { .. }`",
        );
    }
    for attribute in &block.attrs {
        if attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr") {
            mistakes.add(
                attribute,
                "a condition under `#[service]` would leave the generated code behind",
                "write it above `#[service]`",
            );
        }
    }
    if !block.generics.params.is_empty() || block.generics.where_clause.is_some() {
        let (open, close) = (&block.generics.lt_token, &block.generics.gt_token);
        let params = &block.generics.params;
        let at = if params.is_empty() {
            block.generics.where_clause.to_token_stream()
        } else {
            quote!(#open #params #close)
        };
        mistakes.add(
            at,
            "a service cannot be generic: its log and its snapshots hold one type",
            "write the types out: `struct Kv { inner: Store<String> }`, and `#[service] impl Kv`",
        );
    }
    let path = match &*block.self_ty {
        Type::Path(path) if path.qself.is_none() => Some(path.path.clone()),
        _ => None,
    };
    let is_plain = path
        .as_ref()
        .is_some_and(|path| path.segments.iter().all(|segment| matches!(segment.arguments, PathArguments::None)));
    if !is_plain && mistakes.len() == before {
        mistakes.add(
            &block.self_ty,
            "a service is a type with a name of its own",
            "wrap it: `struct Kv { inner: Store<String> }`, and `#[service] impl Kv`",
        );
    }
    path.filter(|_| mistakes.len() == before)
}

fn check_name(at: &dyn ToTokens, name: &str, mistakes: &mut Mistakes) {
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    let rest = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !starts || !rest || name.len() > NAME_BYTES_MAX {
        mistakes.add(
            at,
            format_args!(
                "`{name}` cannot name a service: small letters, digits and `_`, a letter first, at most {NAME_BYTES_MAX} bytes"
            ),
            "write `#[service(name = \"kv\")]`",
        );
    } else if name == "trimaran" {
        mistakes.add(
            at,
            "`trimaran` names the calls that every node answers",
            "choose another name: `#[service(name = \"kv\")]`",
        );
    }
}

/// Reads all functions, drops second definitions of a name, and refuses keys that are taken.
fn methods(block: &mut ItemImpl, owner: &Owner, is_raw: bool, mistakes: &mut Mistakes) -> Vec<Method> {
    let mut methods = Vec::new();
    let mut names = BTreeSet::new();
    let mut keys = BTreeMap::from([(0, "a request that names no method".to_owned())]);
    for name in OWN_METHODS {
        keys.insert(method_key("trimaran", name, 1), format!("`trimaran.{name}`, which every node answers"));
    }
    if is_raw {
        keys.insert(method_key(&owner.name, "raw", 1), format!("`{}.raw`, the handler of bytes", owner.name));
    }
    block.items.retain_mut(|item| {
        let ImplItem::Fn(function) = item else { return true };
        let name = plain(&function.sig.ident);
        let is_new = names.insert(name.clone());
        if !is_new {
            mistakes.add(
                &function.sig.ident,
                format_args!("`{name}` is there twice"),
                "rename one of them: a method is called by its name",
            );
        }
        let read = method::read(function, owner, mistakes);
        let Some(method) = read.filter(|_| is_new) else { return is_new };
        if let Some(other) = keys.get(&method.key) {
            mistakes.add(
                &method.name,
                format_args!(
                    "the method key of `{}.{name}` (revision {}) is {:#010x}, taken by {other}",
                    owner.name, method.rev, method.key
                ),
                format_args!(
                    "rename the method, or give it another revision: `#[{}(rev = {})]`",
                    method.mark.name(),
                    method.rev.wrapping_add(1).max(2)
                ),
            );
            return true;
        }
        keys.insert(method.key, format!("`{name}`"));
        methods.push(method);
        true
    });
    methods
}
