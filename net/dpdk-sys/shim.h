/* What Rust calls of DPDK that the headers offer only as inline functions. Each call crosses the border once for a whole
 * burst; mbufs stay opaque to Rust, which sees a burst as an array of frames. */
#ifndef TRIMARAN_DPDK_SHIM_H
#define TRIMARAN_DPDK_SHIM_H

#include <stdint.h>

struct rte_mbuf;
struct rte_mempool;

/* Most frames of one call. */
#define DPDK_SHIM_BURST 64
/* Bytes of the buffer of every mbuf: 128 of head room, and the 2048 that network cards ask for at least. */
#define DPDK_SHIM_MBUF_BYTES 2176

/* Ethernet's shortest frame, without its check sequence. */
#define DPDK_SHIM_FRAME_MIN_BYTES 60

/* What a device says of a checksum of a received frame, or, FILL, shall do about that of a frame to be sent. GOOD is also said of a
 * datagram that never left the machine: then the checksum in it may be unfinished. */
#define DPDK_SHIM_CHECKSUM_UNKNOWN 0
#define DPDK_SHIM_CHECKSUM_GOOD 1
#define DPDK_SHIM_CHECKSUM_BAD 2
#define DPDK_SHIM_CHECKSUM_FILL 3

/* One frame in one mbuf: buffer[head .. head + len]. Its checksums are meant where it is IPv4 and UDP without options. */
struct dpdk_shim_frame {
	struct rte_mbuf *mbuf;
	uint8_t *buffer;
	uint16_t head;
	uint16_t len;
	uint8_t ipv4_checksum;
	uint8_t udp_checksum;
};

/* What a device is and can do. */
struct dpdk_shim_info {
	char driver[32];
	/* Pairs of queues, at most. */
	uint16_t queues;
	/* Largest payload of a frame that it could be told to carry. */
	uint16_t mtu_max;
	/* Spreads flows over its receive queues by the addresses of IPv4. */
	uint8_t spreads;
	/* Says of received frames whether UDP's checksum is good. */
	uint8_t checks;
	/* Fills in these when it sends. */
	uint8_t fills_ipv4;
	uint8_t fills_udp;
};

/* How a device is to be. */
struct dpdk_shim_config {
	/* Pairs of queues. */
	uint16_t queues;
	/* Largest payload of a frame; 0 leaves it at 1500 bytes, or at what is behind a virtual device. */
	uint16_t mtu;
	/* Spread flows over the receive queues, where it can. */
	uint8_t spread;
	/* Check and fill in checksums, as far as it can. */
	uint8_t checksums;
	/* Have an interrupt for each receive queue. */
	uint8_t interrupts;
};

/* What stands in rte_errno of the calling thread. */
int dpdk_shim_errno(void);

/* What the device is and can do. */
int dpdk_shim_info(uint16_t port, struct dpdk_shim_info *info);

/* Configures a device that is stopped. */
int dpdk_shim_configure(uint16_t port, const struct dpdk_shim_config *config);

/* Has the device put datagrams for a UDP port into a queue: 1, or 0 where it has no such rules. */
int dpdk_shim_steer_udp(uint16_t port, uint16_t udp_port, uint16_t queue);

/* The link is up (1) or down (0), as last known; negative where the device does not say. */
int dpdk_shim_link_up(uint16_t port);

/* The speed of a link that the device does not know. */
#define DPDK_SHIM_MBPS_UNKNOWN 0xFFFFFFFFu

/* As dpdk_shim_link_up; also says its speed in megabits a second: 0 where there is none. */
int dpdk_shim_link(uint16_t port, uint32_t *mbps);

/* Lets frames for any multicast group through: all of these or, where the device has no such filter, all frames. */
int dpdk_shim_receive_groups(uint16_t port);

/* The calling thread has a number of DPDK's, by which mempools find its cache. */
int dpdk_shim_thread_known(void);

/* What dpdk_shim_rx_burst has to say beside the frames. */
struct dpdk_shim_received {
	/* Mbufs in the pool's common ring, thus free for any thread. Set only where frames were received. */
	uint32_t free_mbufs;
	/* Frames that are not one whole, unshared mbuf of DPDK_SHIM_MBUF_BYTES, or have lost a VLAN tag on the way. They are freed. */
	uint16_t odd;
};

/* Receives at most `max` frames (at most DPDK_SHIM_BURST) from a queue that takes mbufs from `pool`, and returns how many stand in the
 * front of `frames`. */
uint16_t dpdk_shim_rx_burst(uint16_t port, uint16_t queue, const struct rte_mempool *pool, struct dpdk_shim_frame *frames, uint16_t max,
			    struct dpdk_shim_received *also);

/* Hands the first `count` frames (at most DPDK_SHIM_BURST) to the device and returns how many of them it took; the others still belong
 * to the caller. A frame whose mbuf is null is only read: a copy of it goes in an mbuf of `pool`, and it and what follows stays where
 * the pool is empty. Frames shorter than DPDK_SHIM_FRAME_MIN_BYTES, for which their buffers must have room, are filled up with zeroes. */
uint16_t dpdk_shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mempool *pool, const struct dpdk_shim_frame *frames, uint16_t count);

/* Fills `count` frames (at most DPDK_SHIM_BURST) with fresh empty mbufs: all (0) or none (not 0). */
int dpdk_shim_alloc(struct rte_mempool *pool, struct dpdk_shim_frame *frames, uint16_t count);

/* Frees the mbufs of `count` frames (at most DPDK_SHIM_BURST). */
void dpdk_shim_free(const struct dpdk_shim_frame *frames, uint16_t count);

#endif
