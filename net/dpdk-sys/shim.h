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

/* One frame in one mbuf: buffer[head .. head + len]. */
struct dpdk_shim_frame {
	struct rte_mbuf *mbuf;
	uint8_t *buffer;
	uint16_t head;
	uint16_t len;
};

/* What stands in rte_errno of the calling thread. */
int dpdk_shim_errno(void);

/* rte_eth_dev_configure with its defaults and as many queues as it says. */
int dpdk_shim_configure(uint16_t port, uint16_t rx_queues, uint16_t tx_queues);

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
