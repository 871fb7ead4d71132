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

    /// The directory of what is built.
    pub(crate) fn target(&self) -> PathBuf {
        self.metadata.target_directory.clone().into()
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

    /// Whether a package has a bench of this name.
    pub(crate) fn has_bench(&self, name: &str) -> bool {
        let targets = self.metadata.packages.iter().flat_map(|package| &package.targets);
        targets.into_iter().any(|target| target.kind.contains(&TargetKind::Bench) && target.name == name)
    }

    /// Names of the integration tests of some packages, without those that need a feature.
    pub(crate) fn tests(&self, wanted: impl Fn(&str) -> bool) -> Vec<&str> {
        let packages = self.metadata.packages.iter().filter(|package| wanted(&package.name));
        let targets = packages.flat_map(|package| &package.targets);
        let tests =
            targets.filter(|target| target.kind.contains(&TargetKind::Test) && target.required_features.is_empty());
        tests.map(|target| target.name.as_str()).collect()
    }
}
