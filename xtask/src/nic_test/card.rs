//! The cards that QEMU offers and DPDK has drivers for.

use std::fmt;

use clap::ValueEnum;

/// A network card of QEMU's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Card {
    /// Two queues with RSS; vfio-pci behind an IOMMU.
    VirtioNet,
    /// Intel 82574; vfio-pci behind an IOMMU.
    E1000e,
    /// Intel 82540; uio_pci_generic without an IOMMU, so that DPDK deals in physical addresses.
    E1000,
}

impl Card {
    pub(crate) const ALL: [Card; 3] = [Card::VirtioNet, Card::E1000e, Card::E1000];

    /// Where it sits in the machine.
    pub(crate) const ADDRESS: &'static str = "0000:00:03.0";

    /// QEMU's arguments for the card, over the tap `interface`.
    pub(crate) fn arguments(self, interface: &str) -> Vec<String> {
        let queues = if self.queues() > 1 { format!(",queues={}", self.queues()) } else { String::new() };
        let (device, iommu) = match self {
            // A device that the IOMMU is between asks it by itself, else QEMU would hand it the machine's own addresses.
            Card::VirtioNet => (
                "virtio-net-pci,mq=on,vectors=6,rss=on,hash=on,disable-legacy=on,iommu_platform=on,ats=on",
                Some("intel-iommu,intremap=on,caching-mode=on,device-iotlb=on"),
            ),
            Card::E1000e => ("e1000e", Some("intel-iommu,intremap=on,caching-mode=on")),
            Card::E1000 => ("e1000", None),
        };
        let mut words = Vec::new();
        if let Some(iommu) = iommu {
            words.extend(["-device".to_owned(), iommu.to_owned()]);
        }
        words.extend(["-netdev".to_owned(), format!("tap,id=net0,ifname={interface},script=no,downscript=no{queues}")]);
        words.extend(["-device".to_owned(), format!("{device},netdev=net0,mac=52:54:00:00:00:02,bus=pcie.0,addr=3")]);
        words
    }

    /// What the kernel in the machine is told of it.
    pub(crate) fn kernel_words(self) -> &'static str {
        match self {
            Card::VirtioNet | Card::E1000e => "intel_iommu=on iommu=nopt",
            Card::E1000 => "intel_iommu=off",
        }
    }

    /// The kernel's driver that hands the card to user space.
    pub(crate) fn user_driver(self) -> &'static str {
        match self {
            Card::VirtioNet | Card::E1000e => "vfio-pci",
            Card::E1000 => "uio_pci_generic",
        }
    }

    /// DPDK's memory must not move: it tells the card physical addresses.
    pub(crate) fn needs_huge_pages(self) -> bool {
        matches!(self, Card::E1000)
    }

    /// The node has huge pages: where they are needed, and once where ordinary ones would do.
    pub(crate) fn node_has_huge_pages(self) -> bool {
        matches!(self, Card::E1000 | Card::VirtioNet)
    }

    /// DPDK's name of its driver.
    pub(crate) fn dpdk_driver(self) -> &'static str {
        match self {
            Card::VirtioNet => "net_virtio",
            Card::E1000e | Card::E1000 => "net_e1000_em",
        }
    }

    /// Pairs of queues that the test uses.
    pub(crate) fn queues(self) -> u8 {
        match self {
            Card::VirtioNet => 2,
            Card::E1000e | Card::E1000 => 1,
        }
    }
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Card::VirtioNet => "virtio-net",
            Card::E1000e => "e1000e",
            Card::E1000 => "e1000",
        })
    }
}
