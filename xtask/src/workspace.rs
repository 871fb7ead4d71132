//! The root of the workspace, and what each crate has to offer.

use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{Metadata, MetadataCommand, TargetKind};

/// The workspace as cargo sees it, without its dependencies: reading it needs no network.
pub(crate) struct Workspace {
    root: PathBuf,
    metadata: Metadata,
}

impl Workspace {
    /// Asks cargo. Takes some tens of milliseconds.
    pub(crate) fn load() -> Result<Self, cargo_metadata::Error> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let metadata = MetadataCommand::new().current_dir(&root).no_deps().exec()?;
        Ok(Self { root: metadata.workspace_root.clone().into(), metadata })
    }

    /// The directory of the workspace's Cargo.toml.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A cargo command that runs in the root.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root).args(args);
        command
    }

    /// Where the steps leave their logs; made when missing.
    pub(crate) fn log_dir(&self) -> std::io::Result<PathBuf> {
        let dir = self.metadata.target_directory.join("xtask");
        std::fs::create_dir_all(&dir)?;
        Ok(dir.into())
    }

    /// Packages that `cargo bench` would find something in.
    pub(crate) fn packages_with_benches(&self) -> Vec<&str> {
        self.names(|kind| *kind == TargetKind::Bench)
    }

    /// Whether `package` has a target of `kind`.
    pub(crate) fn has(&self, package: &str, kind: &TargetKind) -> bool {
        self.names(|of| of == kind).contains(&package)
    }

    fn names(&self, matches: impl Fn(&TargetKind) -> bool) -> Vec<&str> {
        let has = |package: &&cargo_metadata::Package| package.targets.iter().any(|t| t.kind.iter().any(&matches));
        self.metadata.packages.iter().filter(has).map(|package| package.name.as_str()).collect()
    }
}
