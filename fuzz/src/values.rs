//! Arguments and saved states from any bytes: an error or a value, never a panic, however deep it claims to nest.

use std::collections::BTreeMap;
use trimaran_rpc::codec;
use trimaran_rpc::serde::{Deserialize, Serialize};
use trimaran_rpc::state::Reader;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "trimaran_rpc::serde")]
enum Tree<'a> {
    Leaf(i64),
    #[serde(borrow)]
    Text(&'a str),
    Bytes(Vec<u8>),
    Node(Box<Tree<'a>>, Option<Box<Tree<'a>>>),
    Many(Vec<Tree<'a>>),
    Map(BTreeMap<String, (u8, bool, char, f64)>),
}

/// Does what the bytes say.
///
/// # Panics
/// Where something is wrong with the code under test.
pub fn run(bytes: &[u8]) {
    if let Ok(tree) = codec::decode::<Tree<'_>>(bytes) {
        let again = codec::encode(&tree).expect("what was decoded can be encoded");
        let same = codec::decode::<Tree<'_>>(&again).expect("and decoded again");
        // Numbers that are none differ from themselves.
        assert_eq!(codec::encode(&same), Ok(again.clone()));
    }
    let mut reader = Reader::new(bytes).at_once();
    let mut items = Box::pin(async move {
        while let Ok(item) = reader.item::<(u64, String, Vec<Option<u8>>)>().await {
            drop(item);
        }
        let _ = reader.finish();
    });
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(items.as_mut().poll(&mut cx).is_ready(), "nothing to wait for");
}
