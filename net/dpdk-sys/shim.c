/* The inline half of DPDK, compiled once; and the proof that the bindings fit the headers. See shim.h. */
#include <string.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>
#include "shim.h"

/* DPDK keeps one ABI (23) from 22.11 up to, not including, 23.11; src/bindings.rs is of that one. */
_Static_assert(RTE_VERSION >= RTE_VERSION_NUM(22, 11, 0, 0), "dpdk-sys needs DPDK 22.11 or newer");
_Static_assert(RTE_VERSION < RTE_VERSION_NUM(23, 11, 0, 0), "dpdk-sys knows no DPDK newer than 23.07");

/* The structs that Rust reads or writes, as large as src/bindings.rs believes. Where one of these fails, run
 * `cargo xtask bindings` and look at what has changed. */
#define SAME_SIZE(type, bytes) \
	_Static_assert(sizeof(type) == (bytes), "src/bindings.rs does not fit these headers: cargo xtask bindings")
SAME_SIZE(struct rte_eth_dev_info, 376);
SAME_SIZE(struct rte_eth_stats, 704);
SAME_SIZE(struct rte_eth_xstat, 16);
SAME_SIZE(struct rte_eth_xstat_name, 64);
SAME_SIZE(struct rte_ether_addr, 6);
SAME_SIZE(struct dpdk_shim_frame, 24);
SAME_SIZE(struct dpdk_shim_received, 8);
_Static_assert(DPDK_SHIM_MBUF_BYTES == RTE_MBUF_DEFAULT_BUF_SIZE, "mbufs have another size by default");

int dpdk_shim_errno(void)
{
	return rte_errno;
}

int dpdk_shim_configure(uint16_t port, uint16_t rx_queues, uint16_t tx_queues)
{
	struct rte_eth_conf conf = {0};

	return rte_eth_dev_configure(port, rx_queues, tx_queues, &conf);
}

int dpdk_shim_link_up(uint16_t port)
{
	struct rte_eth_link link = {0};
	int result = rte_eth_link_get_nowait(port, &link);

	return result != 0 ? result : link.link_status == RTE_ETH_LINK_UP;
}

_Static_assert(DPDK_SHIM_MBPS_UNKNOWN == RTE_ETH_SPEED_NUM_UNKNOWN, "DPDK says otherwise that it does not know a speed");

int dpdk_shim_link(uint16_t port, uint32_t *mbps)
{
	struct rte_eth_link link = {0};
	int result = rte_eth_link_get_nowait(port, &link);

	*mbps = link.link_speed;
	return result != 0 ? result : link.link_status == RTE_ETH_LINK_UP;
}

int dpdk_shim_receive_groups(uint16_t port)
{
	if (rte_eth_allmulticast_enable(port) == 0)
		return 0;
	return rte_eth_promiscuous_enable(port);
}

int dpdk_shim_thread_known(void)
{
	return rte_lcore_id() != LCORE_ID_ANY;
}

uint16_t dpdk_shim_rx_burst(uint16_t port, uint16_t queue, const struct rte_mempool *pool, struct dpdk_shim_frame *frames, uint16_t max,
			    struct dpdk_shim_received *also)
{
	struct rte_mbuf *mbufs[DPDK_SHIM_BURST];
	uint16_t received = rte_eth_rx_burst(port, queue, mbufs, RTE_MIN(max, DPDK_SHIM_BURST));
	uint16_t kept = 0;

	for (uint16_t i = 0; i < received; i++) {
		struct rte_mbuf *mbuf = mbufs[i];

		if (unlikely(mbuf->nb_segs != 1 || mbuf->buf_len != DPDK_SHIM_MBUF_BYTES || rte_mbuf_refcnt_read(mbuf) != 1 ||
			     !RTE_MBUF_DIRECT(mbuf) || mbuf->data_off + mbuf->data_len > mbuf->buf_len ||
			     (mbuf->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED) != 0)) {
			rte_pktmbuf_free(mbuf);
			continue;
		}
		frames[kept].mbuf = mbuf;
		frames[kept].buffer = mbuf->buf_addr;
		frames[kept].head = mbuf->data_off;
		frames[kept].len = mbuf->data_len;
		kept++;
	}
	also->odd = received - kept;
	if (kept > 0)
		also->free_mbufs = rte_mempool_get_ops(pool->ops_index)->get_count(pool);
	return kept;
}

/* Fills the front of `copies` with at most `wanted` fresh mbufs and returns how many there were. */
static uint16_t alloc_some(struct rte_mempool *pool, struct rte_mbuf **copies, uint16_t wanted)
{
	uint16_t got = 0;

	if (rte_pktmbuf_alloc_bulk(pool, copies, wanted) == 0)
		return wanted;
	while (got < wanted && (copies[got] = rte_pktmbuf_alloc(pool)) != NULL)
		got++;
	return got;
}

uint16_t dpdk_shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mempool *pool, const struct dpdk_shim_frame *frames, uint16_t count)
{
	struct rte_mbuf *mbufs[DPDK_SHIM_BURST], *copies[DPDK_SHIM_BURST];
	uint16_t wanted = 0, copied = 0, staged, sent, left = 0;

	count = RTE_MIN(count, DPDK_SHIM_BURST);
	for (uint16_t i = 0; i < count; i++)
		wanted += frames[i].mbuf == NULL;
	if (wanted > 0)
		wanted = alloc_some(pool, copies, wanted);
	for (staged = 0; staged < count; staged++) {
		const struct dpdk_shim_frame *frame = &frames[staged];
		struct rte_mbuf *mbuf = frame->mbuf;
		uint16_t len = frame->len;

		if (mbuf == NULL) {
			if (copied == wanted)
				break;
			mbuf = copies[copied++];
			memcpy(rte_pktmbuf_mtod(mbuf, uint8_t *), frame->buffer + frame->head, len);
		} else {
			mbuf->data_off = frame->head;
		}
		if (len < DPDK_SHIM_FRAME_MIN_BYTES) {
			memset(rte_pktmbuf_mtod_offset(mbuf, uint8_t *, len), 0, DPDK_SHIM_FRAME_MIN_BYTES - len);
			len = DPDK_SHIM_FRAME_MIN_BYTES;
		}
		mbuf->data_len = len;
		mbuf->pkt_len = len;
		/* A frame that was received goes out again without what the card said of its arrival. */
		mbuf->ol_flags = 0;
		mbufs[staged] = mbuf;
	}
	sent = rte_eth_tx_burst(port, queue, mbufs, staged);
	for (uint16_t i = sent; i < staged; i++) {
		if (frames[i].mbuf == NULL)
			copies[left++] = mbufs[i];
	}
	if (left > 0)
		rte_pktmbuf_free_bulk(copies, left);
	return sent;
}

int dpdk_shim_alloc(struct rte_mempool *pool, struct dpdk_shim_frame *frames, uint16_t count)
{
	struct rte_mbuf *mbufs[DPDK_SHIM_BURST];

	if (count > DPDK_SHIM_BURST || rte_pktmbuf_alloc_bulk(pool, mbufs, count) != 0)
		return -1;
	for (uint16_t i = 0; i < count; i++) {
		frames[i].mbuf = mbufs[i];
		frames[i].buffer = mbufs[i]->buf_addr;
		frames[i].head = mbufs[i]->data_off;
		frames[i].len = 0;
	}
	return 0;
}

void dpdk_shim_free(const struct dpdk_shim_frame *frames, uint16_t count)
{
	struct rte_mbuf *mbufs[DPDK_SHIM_BURST];

	count = RTE_MIN(count, DPDK_SHIM_BURST);
	for (uint16_t i = 0; i < count; i++)
		mbufs[i] = frames[i].mbuf;
	rte_pktmbuf_free_bulk(mbufs, count);
}
