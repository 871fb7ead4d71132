//! `#[derive(State)]`: the fields of a state, one after the other, large collections element by element.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, Data, DeriveInput, Field, Fields, GenericParam, Generics, Index, Member, Type, parse_quote};

use crate::mistakes::Mistakes;
use crate::options::Options;
use crate::types::{is_plain, last_segment, type_arguments};

pub(crate) fn expand(item: TokenStream) -> TokenStream {
    let mut mistakes = Mistakes::default();
    let input: DeriveInput = match syn::parse2(item) {
        Ok(input) => input,
        Err(error) => return error.into_compile_error(),
    };
    let settings = Settings::read(&input.attrs, &mut mistakes);
    lifetimes(&input.generics, &mut mistakes);
    let Form { save, load, discard } = match &input.data {
        Data::Struct(data) => fields(&data.fields, &mut mistakes),
        Data::Enum(data) => {
            for field in data.variants.iter().flat_map(|variant| &variant.fields) {
                check(field, &mut mistakes);
            }
            whole()
        }
        Data::Union(data) => {
            mistakes.add(data.union_token, "a union has no form as bytes", "use an enum");
            whole()
        }
    };
    if !mistakes.is_empty() {
        return mistakes.into_tokens();
    }
    let Settings { version, load_with } = settings;
    let other_version = match load_with {
        Some(path) => {
            let span = path.span().resolved_at(Span::mixed_site());
            quote_spanned! {span=>
                if version != <Self as ::trimaran_rpc::state::State>::VERSION {
                    return #path(version, from).await;
                }
            }
        }
        None => quote_spanned! {Span::mixed_site()=>
            ::trimaran_rpc::state::StateError::expect_version::<Self>(version)?;
        },
    };
    let ident = &input.ident;
    let generics = bounded(input.generics.clone());
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    quote_spanned! {Span::mixed_site()=>
        #[automatically_derived]
        #[allow(unused_variables, clippy::all)]
        impl #impl_generics ::trimaran_rpc::state::State for #ident #type_generics #where_clause {
            const VERSION: u32 = #version;

            async fn save(&self, to: &mut ::trimaran_rpc::state::Writer) {
                #save
            }

            async fn load(
                version: u32,
                from: &mut ::trimaran_rpc::state::Reader<'_>,
            ) -> ::core::result::Result<Self, ::trimaran_rpc::state::StateError> {
                #other_version
                #load
            }

            #discard
        }
    }
}

struct Settings {
    version: u32,
    load_with: Option<syn::Path>,
}

impl Settings {
    fn read(attributes: &[Attribute], mistakes: &mut Mistakes) -> Settings {
        let mut settings = Settings { version: 1, load_with: None };
        let mut is_second = false;
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("state")) {
            if is_second {
                mistakes.add(attribute, "`#[state]` is there twice", "write all options into the first one");
                continue;
            }
            is_second = true;
            let mut options = Options::of_attribute("#[state]", attribute, mistakes);
            if let Some(version) = options.number("version", 1, u64::from(u32::MAX), mistakes) {
                settings.version = u32::try_from(version).unwrap_or(u32::MAX);
            }
            settings.load_with = options.path("load_with", mistakes);
            options.finish(&["version = 2", "load_with = load_old"], mistakes);
        }
        settings
    }
}

fn lifetimes(generics: &Generics, mistakes: &mut Mistakes) {
    for lifetime in generics.lifetimes() {
        mistakes.add(
            lifetime,
            "a state owns what it holds: it is saved, dropped and loaded again",
            "remove the lifetime and hold owned data",
        );
    }
}

/// Type parameters are parts of the state, and so must be what items are.
fn bounded(mut generics: Generics) -> Generics {
    for parameter in &mut generics.params {
        if let GenericParam::Type(parameter) = parameter {
            parameter.bounds.push(parse_quote!(::trimaran_rpc::serde::Serialize));
            parameter.bounds.push(parse_quote!(::trimaran_rpc::serde::de::DeserializeOwned));
            parameter.bounds.push(parse_quote!(::std::marker::Send));
            parameter.bounds.push(parse_quote!('static));
        }
    }
    generics
}

/// The bodies of `save` and `load`, and the method `discard` where it does more than the trait's own.
struct Form {
    save: TokenStream,
    load: TokenStream,
    discard: TokenStream,
}

/// An enum is saved as serde sees it.
fn whole() -> Form {
    Form {
        save: quote_spanned!(Span::mixed_site()=> to.item(self).await;),
        load: quote_spanned!(Span::mixed_site()=> from.item::<Self>().await),
        discard: TokenStream::new(),
    }
}

fn fields(fields: &Fields, mistakes: &mut Mistakes) -> Form {
    let (mut save, mut load, mut built) = (TokenStream::new(), TokenStream::new(), TokenStream::new());
    let mut discard = TokenStream::new();
    for (i, field) in fields.iter().enumerate() {
        check(field, mistakes);
        let member = match &field.ident {
            Some(ident) => Member::Named(ident.clone()),
            None => Member::Unnamed(Index::from(i)),
        };
        let local = format_ident!("field_{i}", span = Span::mixed_site());
        let (saved, loaded) = one(&field.ty, &member);
        save.extend(saved);
        discard.extend(Collection::of(&field.ty).map(|collection| collection.emptied(&field.ty, &member)));
        let span = Span::mixed_site();
        load.extend(quote_spanned!(span=> let #local = #loaded;));
        built.extend(quote_spanned!(span=> #member: #local,));
    }
    let load = quote_spanned!(Span::mixed_site()=> #load ::core::result::Result::Ok(Self { #built }));
    if !discard.is_empty() {
        discard = quote_spanned! {Span::mixed_site()=>
            async fn discard(mut self, turns: &mut ::trimaran_rpc::state::Turns) {
                #discard
            }
        };
    }
    Form { save, load, discard }
}

/// How a field is saved, as statements, and loaded, as an expression.
fn one(ty: &Type, member: &Member) -> (TokenStream, TokenStream) {
    // At the type, so that a type that serde does not know is underlined there.
    let span = ty.span().resolved_at(Span::mixed_site());
    let Some(collection) = Collection::of(ty) else {
        return (
            quote_spanned!(span=> to.item(&self.#member).await;),
            quote_spanned!(span=> from.item::<#ty>().await?),
        );
    };
    let insert = format_ident!("{}", collection.insert, span = span);
    let add = if collection.is_map {
        quote_spanned! {span=>
            let (key, value) = from.item().await?;
            loaded.#insert(key, value);
        }
    } else {
        quote_spanned!(span=> loaded.#insert(from.item().await?);)
    };
    (
        quote_spanned! {span=>
            to.len(self.#member.len()).await;
            for element in self.#member.iter() {
                to.item(&element).await;
            }
        },
        quote_spanned! {span=> {
            let mut loaded = <#ty>::new();
            for _ in 0..from.len().await? {
                #add
            }
            loaded
        }},
    )
}

/// A collection that is saved element by element.
struct Collection {
    insert: &'static str,
    is_map: bool,
    emptying: Emptying,
}

/// How a collection is given back element by element.
enum Emptying {
    /// By this method of `Turns`, which takes it.
    By(&'static str),
    /// The first element is removed, again and again: iterators of persistent collections may hold the whole to the end.
    Remove,
    /// So is the last one.
    Pop,
}

impl Collection {
    /// Known by its name alone: a macro sees no types.
    fn of(ty: &Type) -> Option<Collection> {
        let segment = last_segment(ty)?;
        let name = segment.ident.to_string();
        let arguments = type_arguments(segment);
        let (insert, is_map, emptying) = match (name.as_str(), &arguments[..]) {
            ("BTreeMap", [_, _]) => ("insert", true, Emptying::By("drop_each")),
            ("OrdMap", [_, _]) => ("insert", true, Emptying::Remove),
            ("BTreeSet", [_]) => ("insert", false, Emptying::By("drop_each")),
            ("OrdSet", [_]) => ("insert", false, Emptying::Remove),
            // Copied at the speed of memory as one item; one by one, every byte would cost a call.
            ("Vec" | "VecDeque" | "Vector", [element]) if is_plain(element, "u8") => return None,
            ("Vec", [_]) => ("push", false, Emptying::By("drop_vec")),
            ("VecDeque", [_]) => ("push_back", false, Emptying::By("drop_each")),
            ("Vector", [_]) => ("push_back", false, Emptying::Pop),
            _ => return None,
        };
        Some(Collection { insert, is_map, emptying })
    }

    /// Statements that drop the elements of a field and give others a turn now and then. The field stays, empty: nothing can be moved
    /// out of a state with a `Drop` of its own.
    fn emptied(&self, ty: &Type, member: &Member) -> TokenStream {
        let span = ty.span().resolved_at(Span::mixed_site());
        let next = match self.emptying {
            Emptying::By(method) => {
                let method = format_ident!("{method}", span = span);
                return quote_spanned! {span=>
                    turns.#method(::core::mem::replace(&mut self.#member, <#ty>::new())).await;
                };
            }
            Emptying::Remove => {
                let key = if self.is_map { quote_spanned!(span=> (key, _)) } else { quote_spanned!(span=> key) };
                quote_spanned! {span=> {
                    let first = self.#member.iter().next().map(|#key| ::core::clone::Clone::clone(key));
                    first.map(|first| self.#member.remove(&first))
                }}
            }
            Emptying::Pop => quote_spanned!(span=> self.#member.pop_back()),
        };
        quote_spanned!(span=> turns.drop_each(::core::iter::from_fn(|| #next)).await;)
    }
}

fn check(field: &Field, mistakes: &mut Mistakes) {
    for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("state")) {
        mistakes.add(
            attribute,
            "fields have no options: all of them are saved",
            "remove it; what is not part of the state does not belong into its type",
        );
    }
    let hashed = crate::types::find_token(
        &field.ty,
        &|token| matches!(token, proc_macro2::TokenTree::Ident(ident) if ident == "HashMap" || ident == "HashSet"),
    );
    if let Some(hashed) = hashed {
        let instead = if hashed.to_string() == "HashMap" { "BTreeMap" } else { "BTreeSet" };
        mistakes.add(
            field.ty.to_token_stream(),
            format_args!("a state cannot hold a `{hashed}`: replicas compare their bytes, and its order differs"),
            format_args!("use `{instead}`"),
        );
    }
}
