//! What is too deep is refused, at any depth; everything else is read as postcard reads it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::codec::{MAX_DEPTH, decode, encode};

#[derive(Debug, Serialize, Deserialize)]
enum Expr {
    Leaf,
    Not(Box<Expr>),
    And(u8, Box<Expr>),
    Let { is: Box<Expr> },
    Pair(Box<(u8, Expr)>),
}

#[derive(Debug, Serialize, Deserialize)]
struct Chain {
    next: Option<Box<Chain>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct Maybe(Option<Box<Maybe>>);

#[derive(Debug, Serialize, Deserialize)]
struct Tree(Vec<Tree>);

#[derive(Debug, Serialize, Deserialize)]
struct Scored(u8, Vec<Scored>);

#[derive(Debug, Serialize, Deserialize)]
struct Values(BTreeMap<u8, Values>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Keys(BTreeMap<Keys, ()>);

/// Reads `n` times `around` and then `innermost`: the greatest `n` that may be is `limit`, and no `n` overflows the stack.
#[track_caller]
fn check_limit<T: DeserializeOwned + Serialize>(around: &[u8], innermost: &[u8], limit: usize) {
    let bytes = |n: usize| [around.repeat(n).as_slice(), innermost].concat();
    for n in 0..=limit {
        let value: T = decode(&bytes(n)).unwrap_or_else(|error| panic!("{n} levels: {error}"));
        assert_eq!(encode(&value).unwrap(), bytes(n));
    }
    for n in [limit + 1, limit + 2, 1_000, 2_000_000] {
        let error = decode::<T>(&bytes(n)).err();
        assert_eq!(error, Some(CodecError::Decode("nested more than 128 levels deep".into())), "{n} levels");
    }
}

#[test]
fn enums_nest_up_to_the_limit() {
    check_limit::<Expr>(&[1], &[0], 127);
    check_limit::<Expr>(&[2, 7], &[0], 127);
    check_limit::<Expr>(&[3], &[0], 127);
}

#[test]
fn structs_and_options_nest_up_to_the_limit() {
    check_limit::<Chain>(&[1], &[0], 63);
    check_limit::<Maybe>(&[1], &[0], 127);
}

#[test]
fn tuples_nest_up_to_the_limit() {
    // 63 times an enum and a tuple, and an enum. One more, and the innermost enum were the 129th level.
    check_limit::<Expr>(&[4, 9], &[0], 63);
}

#[test]
fn collections_nest_up_to_the_limit() {
    check_limit::<Tree>(&[1], &[0], 63);
    check_limit::<Scored>(&[5, 1], &[5, 0], 63);
    check_limit::<Values>(&[1, 8], &[0], 63);
    check_limit::<Keys>(&[1], &[0], 63);
}

/// Levels are counted down to a value, not all over it.
#[test]
fn what_stands_side_by_side_is_not_nested() {
    let wide: Vec<(Option<u8>, Vec<Chain>)> =
        (0..1_000).map(|_| (Some(1), (0..3).map(|_| Chain { next: None }).collect())).collect();
    let bytes = encode(&wide).unwrap();
    let read: Vec<(Option<u8>, Vec<Chain>)> = decode(&bytes).unwrap();
    assert_eq!(encode(&read).unwrap(), bytes);
}

/// Other mistakes keep postcard's words.
#[test]
fn only_depth_is_called_depth() {
    let plain = postcard::from_bytes::<Expr>(&[1, 1, 77]).unwrap_err().to_string();
    assert_eq!(decode::<Expr>(&[1, 1, 77]).err(), Some(CodecError::Decode(plain)));
}

/// Without the hint, large collections would grow step by step.
#[test]
fn collections_are_told_their_size() {
    struct Hint(Option<usize>);
    struct Ask;
    impl<'de> Visitor<'de> for Ask {
        type Value = Hint;
        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("anything with a size")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<Hint, A::Error> {
            Ok(Hint(elements.size_hint()))
        }
        fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Hint, A::Error> {
            Ok(Hint(entries.size_hint()))
        }
    }
    struct Seq(Hint);
    impl<'de> Deserialize<'de> for Seq {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Seq, D::Error> {
            from.deserialize_seq(Ask).map(Seq)
        }
    }
    struct Map(Hint);
    impl<'de> Deserialize<'de> for Map {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Map, D::Error> {
            from.deserialize_map(Ask).map(Map)
        }
    }
    let (Seq(seq), _) = take(&[3, 1, 2, 3], MAX_DEPTH).unwrap();
    let (Map(map), _) = take(&[2, 1, 1, 2, 2], MAX_DEPTH).unwrap();
    assert_eq!((seq.0, map.0), (Some(3), Some(2)));
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Unit;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Meters(f64);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Rgb(u8, u16, u32);

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Shape {
    Nothing,
    Text(String),
    Pair(i128, char),
    Fields { flag: bool, deep: Option<Option<u8>>, rate: f32, unit: Unit },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Owned {
    text: String,
    bytes: Vec<u8>,
    wide: u128,
    signed: (i8, i16, i32, i64),
    shapes: Vec<Shape>,
    map: BTreeMap<String, Rgb>,
    by_char: BTreeMap<char, ()>,
    meters: Option<Meters>,
    array: [u16; 3],
    result: Result<u64, Unit>,
    // Text or bytes, depending on whether the format says that people read it.
    address: IpAddr,
}

/// The same bytes as those of an [`Owned`], of which text and bytes are not copied.
#[derive(Debug, Serialize, Deserialize)]
struct Borrowed<'a> {
    text: &'a str,
    bytes: &'a [u8],
    wide: u128,
    signed: (i8, i16, i32, i64),
    #[serde(borrow)]
    shapes: Vec<BorrowedShape<'a>>,
    map: BTreeMap<&'a str, Rgb>,
    by_char: BTreeMap<char, ()>,
    meters: Option<Meters>,
    array: [u16; 3],
    result: Result<u64, Unit>,
    address: IpAddr,
}

#[derive(Debug, Serialize, Deserialize)]
enum BorrowedShape<'a> {
    Nothing,
    Text(&'a str),
    Pair(i128, char),
    Fields { flag: bool, deep: Option<Option<u8>>, rate: f32, unit: Unit },
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Nothing),
        any::<String>().prop_map(Shape::Text),
        any::<(i128, char)>().prop_map(|(number, letter)| Shape::Pair(number, letter)),
        any::<(bool, Option<Option<u8>>, f32)>().prop_map(|(flag, deep, rate)| Shape::Fields {
            flag,
            deep,
            rate,
            unit: Unit
        }),
    ]
}

fn owned() -> impl Strategy<Value = Owned> {
    let rgb = any::<(u8, u16, u32)>().prop_map(|(r, g, b)| Rgb(r, g, b));
    let plain = any::<(String, Vec<u8>, u128, (i8, i16, i32, i64), Option<f64>, [u16; 3], Option<u64>, IpAddr)>();
    let collections =
        (vec(shape(), 0..6), btree_map(any::<String>(), rgb, 0..4), btree_map(any::<char>(), Just(()), 0..4));
    (plain, collections).prop_map(|(plain, (shapes, map, by_char))| {
        let (text, bytes, wide, signed, meters, array, result, address) = plain;
        let (meters, result) = (meters.map(Meters), result.ok_or(Unit));
        Owned { text, bytes, wide, signed, shapes, map, by_char, meters, array, result, address }
    })
}

/// What a reading gave, in a form that can be compared: floats that are no numbers differ from themselves.
fn outcome<T: Serialize, E: fmt::Display>(read: Result<(T, &[u8]), E>) -> Result<(Vec<u8>, usize), String> {
    read.map(|(value, rest)| (encode(&value).unwrap(), rest.len())).map_err(|error| error.to_string())
}

fn both<'a, T: Deserialize<'a> + Serialize>(bytes: &'a [u8]) -> [Result<(Vec<u8>, usize), String>; 2] {
    let plain = postcard::take_from_bytes::<T>(bytes).map_err(|error| CodecError::Decode(error.to_string()));
    [outcome(take::<T>(bytes, MAX_DEPTH)), outcome(plain)]
}

proptest! {
    #[test]
    fn values_are_read_as_postcard_reads_them(value in owned(), after in vec(any::<u8>(), 0..3)) {
        let own = encode(&value).unwrap();
        prop_assert_eq!(&own, &postcard::to_stdvec(&value).unwrap());
        let bytes = [own.as_slice(), &after].concat();
        let [here, plain] = both::<Owned>(&bytes);
        prop_assert_eq!(&here, &Ok((own, after.len())));
        prop_assert_eq!(&here, &plain);
        let [borrowed, plain] = both::<Borrowed<'_>>(&bytes);
        prop_assert_eq!(&borrowed, &here);
        prop_assert_eq!(borrowed, plain);
    }

    /// Damaged values: the same error, or the same other value.
    #[test]
    fn damage_is_seen_as_postcard_sees_it(
        value in owned(), at in any::<prop::sample::Index>(), with in any::<u8>(), len in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode(&value).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = with;
        let [here, plain] = both::<Owned>(&bytes);
        prop_assert_eq!(here, plain);
        bytes.truncate(len.index(bytes.len()));
        let [here, plain] = both::<Borrowed<'_>>(&bytes);
        prop_assert_eq!(here, plain);
    }

    #[test]
    fn any_bytes_are_read_as_postcard_reads_them(bytes in vec(prop_oneof![0u8..6, any::<u8>()], 0..60)) {
        let [here, plain] = both::<Vec<Shape>>(&bytes);
        prop_assert_eq!(here, plain);
        let [here, plain] = both::<BTreeMap<char, (Option<Meters>, BorrowedShape<'_>)>>(&bytes);
        prop_assert_eq!(here, plain);
        let [here, plain] = both::<Result<Tree, Expr>>(&bytes);
        prop_assert_eq!(here, plain);
    }
}
