//! One marked method: what it is, or everything that is wrong with it.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{
    Attribute, FnArg, Ident, ImplItemFn, LitStr, PatType, Path, PathArguments, Receiver as SelfArgument, ReturnType,
    Type,
};
use syn::{Visibility, parse_quote};

use super::argument::{ARGUMENTS_MAX, Argument};
use super::key::method_key;
use super::mark::{Mark, Receiver};
use super::scan;
use crate::mistakes::Mistakes;
use crate::options::Options;
use crate::types::{behind_references, find_token, is_plain, is_punct, is_unit, is_word, last_segment};
use crate::types::{own_type, type_arguments};

/// Names that the generated client has for itself.
const CLIENT_NAMES: [&str; 3] = ["on", "connect", "clone"];

/// The service that a method belongs to.
pub(crate) struct Owner {
    /// First part of the method keys.
    pub(crate) name: String,
    /// The type as written after `impl`.
    pub(crate) path: Path,
}

/// What a method gives back: `Result<T, E>`, or a plain `T`, which has no error.
pub(crate) struct Returns {
    pub(crate) value: Type,
    pub(crate) error: Option<Type>,
}

/// A method that can be called, fired or carried out.
pub(crate) struct Method {
    pub(crate) name: Ident,
    pub(crate) mark: Mark,
    pub(crate) rev: u16,
    pub(crate) key: u32,
    pub(crate) visibility: Visibility,
    /// Its documentation and deprecation, for the client.
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) returns: Returns,
}

impl Method {
    /// The first paragraph of its documentation, on one line.
    pub(crate) fn doc(&self) -> String {
        let mut lines = Vec::new();
        for attribute in self.attributes.iter().filter(|attribute| attribute.path().is_ident("doc")) {
            let Ok(pair) = attribute.meta.require_name_value() else { continue };
            let Ok(text) = syn::parse2::<LitStr>(pair.value.to_token_stream()) else { continue };
            let text = text.value();
            let text = text.trim();
            match (text.is_empty(), lines.is_empty()) {
                (false, _) => lines.push(text.to_owned()),
                (true, true) => {}
                (true, false) => break,
            }
        }
        lines.join(" ")
    }

    /// The name without `r#`.
    pub(crate) fn plain_name(&self) -> String {
        plain(&self.name)
    }
}

/// An identifier as text, without `r#`.
pub(crate) fn plain(ident: &Ident) -> String {
    let text = ident.to_string();
    text.strip_prefix("r#").unwrap_or(&text).to_owned()
}

/// Reads one function of the impl block and takes our attributes off it. `None`: a helper, or a method with mistakes.
pub(crate) fn read(function: &mut ImplItemFn, owner: &Owner, mistakes: &mut Mistakes) -> Option<Method> {
    let before = mistakes.len();
    let marks: Vec<(Mark, Attribute)> =
        function.attrs.iter().filter_map(|attribute| Some((Mark::of(attribute)?, attribute.clone()))).collect();
    let Some((mark, attribute)) = marks.first() else {
        unmarked(function, mistakes);
        return None;
    };
    function.attrs.retain(|attribute| Mark::of(attribute).is_none());
    for (second, again) in &marks[1..] {
        let help = format!("keep `{}` or `{}`", mark.attribute(), second.attribute());
        mistakes.add(again, "a method has one mark", help);
    }
    let mut options = Options::of_attribute(mark.attribute(), attribute, mistakes);
    let rev = options.number("rev", 1, u64::from(u16::MAX), mistakes).unwrap_or(1);
    let rev = u16::try_from(rev).unwrap_or(1);
    options.finish(&["rev = 2"], mistakes);

    conditional(function, mistakes);
    let mark = *mark;
    qualifiers(function, mark, mistakes);
    name(&function.sig.ident, mark, mistakes);
    let mut inputs = function.sig.inputs.iter_mut().peekable();
    let mut receiver = None;
    if let Some(FnArg::Receiver(found)) = inputs.peek() {
        receiver = Some(found.clone());
        inputs.next();
    }
    self_argument(receiver.as_ref(), &function.sig.ident, mark, mistakes);
    let typed: Vec<&mut PatType> = inputs
        .filter_map(|input| match input {
            FnArg::Typed(typed) => Some(typed),
            FnArg::Receiver(_) => None,
        })
        .collect();
    let arguments = arguments(typed, &function.sig.ident, mark, owner, mistakes);
    let returns = returns(&function.sig.output, mark, owner, mistakes);
    match mark {
        Mark::Replicated | Mark::Timer => scan::outside_the_log(&function.block, mark, mistakes),
        Mark::Read => scan::awaits(&function.block, mistakes),
        Mark::Local | Mark::Effect => {}
    }

    let attributes = function.attrs.iter().filter(|a| a.path().is_ident("doc") || a.path().is_ident("deprecated"));
    let method = Method {
        key: method_key(&owner.name, &plain(&function.sig.ident), rev),
        name: function.sig.ident.clone(),
        mark,
        rev,
        visibility: function.vis.clone(),
        attributes: attributes.cloned().collect(),
        arguments,
        returns,
    };
    (mistakes.len() == before).then_some(method)
}

/// A helper must not look like a method whose mark was forgotten.
fn unmarked(function: &ImplItemFn, mistakes: &mut Mistakes) {
    for input in &function.sig.inputs {
        let FnArg::Typed(typed) = input else { continue };
        let Some(context) = context_of(&typed.ty) else { continue };
        let marks: Vec<&str> =
            Mark::ALL.into_iter().filter(|mark| mark.context() == context).map(Mark::attribute).collect();
        mistakes.add(
            typed,
            format_args!("`{}` takes a `{context}` but has no mark", function.sig.ident),
            format_args!(
                "mark it `{}`, or move a helper to an `impl` block without `#[service]`",
                marks.join("` or `")
            ),
        );
    }
}

fn conditional(function: &ImplItemFn, mistakes: &mut Mistakes) {
    for attribute in &function.attrs {
        if attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr") {
            mistakes.add(
                attribute,
                "a method cannot depend on how this program is built: replicas would differ in what they know",
                "remove the condition, or put it on the whole `impl` block, above `#[service]`",
            );
        }
    }
}

fn qualifiers(function: &ImplItemFn, mark: Mark, mistakes: &mut Mistakes) {
    let signature = &function.sig;
    let attribute = mark.with_article();
    if signature.asyncness.is_none() {
        let (token, name) = (&signature.fn_token, &signature.ident);
        mistakes.add(
            quote!(#token #name),
            format_args!("{attribute} method is async"),
            format_args!("write `async fn {name}`"),
        );
    }
    let mut refuse = |at: TokenStream, what: &str| {
        mistakes.add(
            at,
            format_args!("{attribute} method cannot be `{what}`: it is called by the replica, not by you"),
            format_args!("remove `{what}`"),
        );
    };
    if let Some(token) = &signature.constness {
        refuse(token.to_token_stream(), "const");
    }
    if let Some(token) = &signature.unsafety {
        refuse(token.to_token_stream(), &token.to_token_stream().to_string());
    }
    if let Some(abi) = &signature.abi {
        refuse(abi.to_token_stream(), "extern");
    }
    let mut generic = |at: TokenStream| {
        mistakes.add(
            at,
            format_args!("{attribute} method cannot be generic: a request names one method, with one form"),
            "write the types out, or have one method for each",
        );
    };
    if !signature.generics.params.is_empty() {
        generic(signature.generics.params.to_token_stream());
    } else if let Some(clause) = &signature.generics.where_clause {
        generic(clause.to_token_stream());
    }
}

fn name(name: &Ident, mark: Mark, mistakes: &mut Mistakes) {
    if mark.is_callable() && CLIENT_NAMES.contains(&plain(name).as_str()) {
        mistakes.add(
            name,
            format_args!("`{name}` is a function of the generated client itself"),
            format_args!("choose another name, such as `{name}_now`"),
        );
    }
}

fn self_argument(found: Option<&SelfArgument>, name: &Ident, mark: Mark, mistakes: &mut Mistakes) {
    let attribute = mark.with_article();
    let plain_reference = |receiver: &SelfArgument, exclusive: bool| {
        matches!(&receiver.reference, Some((_, None)))
            && receiver.mutability.is_some() == exclusive
            && receiver.colon_token.is_none()
    };
    match (mark.receiver(), found) {
        (Receiver::Exclusive, Some(receiver)) if plain_reference(receiver, true) => {}
        (Receiver::Shared, Some(receiver)) if plain_reference(receiver, false) => {}
        (Receiver::Absent, None) => {}
        (Receiver::Exclusive, Some(receiver)) => mistakes.add(
            receiver,
            format_args!("{attribute} method takes `&mut self`"),
            if mark == Mark::Replicated && receiver.reference.is_some() && receiver.mutability.is_none() {
                "write `&mut self`, or mark the method `#[read]`"
            } else {
                "write `&mut self`"
            },
        ),
        (Receiver::Shared, Some(receiver)) => mistakes.add(
            receiver,
            format_args!("{attribute} method takes `&self`: what changes state goes through the log"),
            if receiver.reference.is_some() && receiver.mutability.is_some() {
                "write `&self`, or mark the method `#[replicated]`"
            } else {
                "write `&self`"
            },
        ),
        (Receiver::Exclusive | Receiver::Shared, None) => mistakes.add(
            name,
            format_args!("{attribute} method takes `self`, by reference, and its context"),
            format_args!("write `async fn {name}{}`", mark.shape()),
        ),
        (Receiver::Absent, Some(receiver)) => mistakes.add(
            receiver,
            format_args!("{attribute} method has no `self`: it runs beside the state and may wait"),
            "remove it; `cx.with_state(|state| ..).await` looks at the state",
        ),
    }
}

/// Which of the contexts a type is, behind any references.
fn context_of(ty: &Type) -> Option<&'static str> {
    let segment = last_segment(behind_references(ty))?;
    ["Cx", "ReadCx", "LocalCx"].into_iter().find(|context| segment.ident == context)
}

/// Checks the context, and reads what follows it.
fn arguments(
    mut typed: Vec<&mut PatType>,
    name: &Ident,
    mark: Mark,
    owner: &Owner,
    mistakes: &mut Mistakes,
) -> Vec<Argument> {
    let attribute = mark.with_article();
    let shape = mark.context_argument();
    let starts_with_context = typed.first().is_some_and(|first| context_of(&first.ty).is_some());
    if !starts_with_context {
        let at = typed.first().map_or_else(|| name.to_token_stream(), |first| first.to_token_stream());
        mistakes.add(
            at,
            format_args!("{attribute} method takes its context before other arguments"),
            format_args!("write `async fn {name}{}`", mark.shape()),
        );
    } else if !is_context(&typed[0].ty, mark, owner) {
        mistakes.add(
            &typed[0].ty,
            format_args!("the context of {attribute} method is `{shape}`"),
            format_args!("write `{shape}`"),
        );
        complete(&mut typed[0].ty);
    }
    let mut arguments = Vec::new();
    for input in typed.into_iter().skip(usize::from(starts_with_context)) {
        if starts_with_context && context_of(&input.ty).is_some() {
            mistakes.add(&*input, "a method has one context, in front", "remove this one");
            continue;
        }
        let Some(argument) = Argument::read(input, mark, owner, mistakes) else { continue };
        if arguments.iter().any(|earlier: &Argument| earlier.name == argument.name) {
            mistakes.add(&argument.name, format_args!("`{}` is there twice", argument.name), "rename one of them");
            // Or the compiler says so as well.
            *input.pat = parse_quote!(_);
        }
        arguments.push(argument);
    }
    if let Some(beyond) = arguments.get(ARGUMENTS_MAX) {
        mistakes.add(
            &beyond.name,
            format_args!("a method takes at most {ARGUMENTS_MAX} arguments"),
            "put them into a struct marked `#[data]`",
        );
    }
    let mut keys = arguments.iter().filter(|argument| argument.is_shard_key);
    if let (Some(_), Some(second)) = (keys.next(), keys.next()) {
        mistakes.add(&second.name, "a call has one shard key", "keep `#[shard_key]` on one argument");
    }
    arguments
}

/// Gives a bare `LocalCx` its parameter, so that the compiler does not ask for it as well.
fn complete(context: &mut Type) {
    let inner = match context {
        Type::Reference(reference) => &mut *reference.elem,
        other => other,
    };
    if is_plain(inner, "LocalCx")
        && let Type::Path(path) = inner
        && let Some(segment) = path.path.segments.last_mut()
    {
        segment.arguments = PathArguments::AngleBracketed(parse_quote!(<Self>));
    }
}

/// Whether the type is the context exactly as this mark wants it.
fn is_context(ty: &Type, mark: Mark, owner: &Owner) -> bool {
    let Type::Reference(reference) = ty else { return false };
    let exclusive = mark.receiver() == Receiver::Exclusive;
    if reference.lifetime.is_some() || reference.mutability.is_some() != exclusive {
        return false;
    }
    let Some(segment) = last_segment(&reference.elem) else { return false };
    if segment.ident != mark.context() {
        return false;
    }
    match (mark.receiver(), &type_arguments(segment)[..]) {
        (Receiver::Absent, [state]) => {
            let own = owner.path.segments.last();
            is_plain(state, "Self") || own.is_some_and(|own| is_plain(state, &own.ident.to_string()))
        }
        (Receiver::Absent, _) => false,
        _ => segment.arguments.is_none(),
    }
}

fn returns(output: &ReturnType, mark: Mark, owner: &Owner, mistakes: &mut Mistakes) -> Returns {
    let nothing = || Returns { value: parse_quote!(()), error: None };
    let ReturnType::Type(_, ty) = output else { return nothing() };
    let attribute = mark.with_article();
    if !mark.is_callable() {
        if !is_unit(ty) {
            mistakes.add(
                output,
                format_args!("{attribute} method returns nothing: nobody waits for it"),
                "remove the return type; keep what comes out of it in the state",
            );
        }
        return nothing();
    }
    // A function type's arrow is not looked into: its type has no form to send and fails by itself.
    if find_token(ty, &|token| is_punct(token, '&') || is_punct(token, '\'')).is_some() {
        mistakes.add(
            ty,
            "a reply cannot borrow: it leaves this node as bytes",
            "return owned data, such as `String` or `Vec<u8>`",
        );
    } else if find_token(ty, &|token| is_word(token, "impl") || is_word(token, "dyn")).is_some() {
        mistakes.add(ty, "a reply has one type: callers must know its form", "write the type out, such as `Vec<u64>`");
    } else if matches!(&**ty, Type::Never(_)) {
        mistakes.add(ty, format_args!("{attribute} method comes back: callers wait for it"), "remove `-> !`");
    }
    let own = |ty: &Type| own_type(ty, &owner.path);
    let Some(segment) = last_segment(ty).filter(|segment| segment.ident == "Result") else {
        return Returns { value: own(ty), error: None };
    };
    match &type_arguments(segment)[..] {
        [value, error] => Returns { value: own(value), error: Some(own(error)) },
        _ => {
            mistakes.add(
                ty,
                "the macro cannot see which error this alias of `Result` stands for",
                "write both types: `Result<u64, KvError>`",
            );
            nothing()
        }
    }
}
