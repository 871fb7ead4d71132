//! Finds DPDK and compiles the shim; without the feature `link`, does nothing.

#[cfg(not(feature = "link"))]
fn main() {}

#[cfg(feature = "link")]
fn main() {
    linked::build();
}

#[cfg(feature = "link")]
mod linked {
    use std::process::{Command, exit};

    /// The libraries that the bindings name; the loader finds what these need. Drivers are plugins that DPDK loads itself.
    const LIBRARIES: [&str; 5] = ["rte_ethdev", "rte_mbuf", "rte_mempool", "rte_ring", "rte_eal"];
    /// From this version up to the one where the ABI changes.
    const VERSIONS: [&str; 2] = ["libdpdk >= 22.11", "libdpdk < 23.11"];

    pub(crate) fn build() {
        for file in ["build.rs", "shim.c", "shim.h"] {
            println!("cargo:rerun-if-changed={file}");
        }
        println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");
        let mut shim = cc::Build::new();
        shim.file("shim.c").flag("-Wno-deprecated-declarations");
        // Rust's own runtime of it is linked; see `cargo xtask asan`.
        if std::env::var("CARGO_CFG_SANITIZE").is_ok_and(|sanitize| sanitize.contains("address")) {
            shim.flag("-fsanitize=address").flag("-fno-omit-frame-pointer");
        }
        for flag in pkg_config(&["--cflags"]).split_whitespace() {
            shim.flag(flag);
        }
        if let Err(error) = shim.try_compile("dpdk_shim") {
            fail(&format!("cannot compile net/dpdk-sys/shim.c: {error}"));
        }
        for flag in pkg_config(&["--libs-only-L"]).split_whitespace() {
            println!("cargo:rustc-link-search=native={}", flag.trim_start_matches("-L"));
        }
        for library in LIBRARIES {
            println!("cargo:rustc-link-lib=dylib={library}");
        }
    }

    fn pkg_config(args: &[&str]) -> String {
        match Command::new("pkg-config").args(args).args(VERSIONS).output() {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
            _ => fail("pkg-config finds no DPDK 22.11: apt-get install libdpdk-dev"),
        }
    }

    /// One line that says what to do, instead of a panic's many.
    fn fail(what: &str) -> ! {
        println!("cargo:warning={what}");
        eprintln!("error: {what}");
        exit(1);
    }
}
