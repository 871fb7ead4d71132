/* The inline half of DPDK, compiled once; and the proof that the bindings fit the headers. See shim.h. */
#include <string.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_ip.h>
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
SAME_SIZE(struct rte_eth_stats, 704);
SAME_SIZE(struct rte_eth_xstat, 16);
SAME_SIZE(struct rte_eth_xstat_name, 64);
SAME_SIZE(struct rte_ether_addr, 6);
SAME_SIZE(struct dpdk_shim_frame, 24);
SAME_SIZE(struct dpdk_shim_received, 8);
SAME_SIZE(struct dpdk_shim_info, 40);
SAME_SIZE(struct dpdk_shim_config, 8);
_Static_assert(DPDK_SHIM_MBUF_BYTES == RTE_MBUF_DEFAULT_BUF_SIZE, "mbufs have another size by default");

/* All mbufs of a pool lie in one piece of memory, where AddressSanitizer sees neither a use after free nor a second free. Under it the
 * shim marks the buffers that belong to DPDK: Rust that touches one, or gives one away twice, ends with a report. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>

static void now_ours(const struct rte_mbuf *mbuf)
{
	ASAN_UNPOISON_MEMORY_REGION(mbuf->buf_addr, mbuf->buf_len);
}

static void given_away(const struct rte_mbuf *mbuf)
{
	/* This read is the report where the mbuf was given away before. */
	(void)*(volatile const char *)mbuf->buf_addr;
	ASAN_POISON_MEMORY_REGION(mbuf->buf_addr, mbuf->buf_len);
}
#else
static inline void now_ours(const struct rte_mbuf *mbuf)
{
	(void)mbuf;
}

static inline void given_away(const struct rte_mbuf *mbuf)
{
	(void)mbuf;
}
#endif

int dpdk_shim_errno(void)
{
	return rte_errno;
}

#define RX_CHECKSUMS (RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM)
#define TX_CHECKSUMS (RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM)
#define SPREAD_BY (RTE_ETH_RSS_IPV4 | RTE_ETH_RSS_NONFRAG_IPV4_UDP)

int dpdk_shim_info(uint16_t port, struct dpdk_shim_info *info)
{
	struct rte_eth_dev_info own = {0};
	int result = rte_eth_dev_info_get(port, &own);

	if (result != 0)
		return result;
	memset(info, 0, sizeof(*info));
	strncpy(info->driver, own.driver_name != NULL ? own.driver_name : "", sizeof(info->driver) - 1);
	info->queues = RTE_MIN(own.max_rx_queues, own.max_tx_queues);
	info->mtu_max = own.max_mtu;
	info->spreads = (own.flow_type_rss_offloads & SPREAD_BY) != 0;
	info->checks = (own.rx_offload_capa & RTE_ETH_RX_OFFLOAD_UDP_CKSUM) != 0;
	info->fills_ipv4 = (own.tx_offload_capa & RTE_ETH_TX_OFFLOAD_IPV4_CKSUM) != 0;
	info->fills_udp = (own.tx_offload_capa & RTE_ETH_TX_OFFLOAD_UDP_CKSUM) != 0;
	return 0;
}

int dpdk_shim_configure(uint16_t port, const struct dpdk_shim_config *config)
{
	struct rte_eth_conf conf = {0};
	struct rte_eth_dev_info own = {0};
	int result = rte_eth_dev_info_get(port, &own);

	if (result != 0)
		return result;
	conf.rxmode.mtu = config->mtu;
	conf.intr_conf.rxq = config->interrupts != 0;
	if (config->spread && config->queues > 1 && (own.flow_type_rss_offloads & SPREAD_BY) != 0) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = own.flow_type_rss_offloads & SPREAD_BY;
	}
	if (config->checksums) {
		conf.rxmode.offloads = own.rx_offload_capa & RX_CHECKSUMS;
		conf.txmode.offloads = own.tx_offload_capa & TX_CHECKSUMS;
	}
	result = rte_eth_dev_configure(port, config->queues, config->queues, &conf);
	if (result != 0 || config->mtu == 0)
		return result;
	/* Some drivers take it when they are configured, others now, or have nothing to do for it. */
	result = rte_eth_dev_set_mtu(port, config->mtu);
	return result == -ENOTSUP ? 0 : result;
}

int dpdk_shim_steer_udp(uint16_t port, uint16_t udp_port, uint16_t queue)
{
	const struct rte_flow_attr attr = {.ingress = 1};
	const struct rte_flow_item_udp udp = {.hdr.dst_port = rte_cpu_to_be_16(udp_port)};
	const struct rte_flow_item_udp mask = {.hdr.dst_port = 0xffff};
	const struct rte_flow_action_queue to = {.index = queue};
	const struct rte_flow_item pattern[] = {
		{.type = RTE_FLOW_ITEM_TYPE_ETH},
		{.type = RTE_FLOW_ITEM_TYPE_IPV4},
		{.type = RTE_FLOW_ITEM_TYPE_UDP, .spec = &udp, .mask = &mask},
		{.type = RTE_FLOW_ITEM_TYPE_END},
	};
	const struct rte_flow_action actions[] = {
		{.type = RTE_FLOW_ACTION_TYPE_QUEUE, .conf = &to},
		{.type = RTE_FLOW_ACTION_TYPE_END},
	};
	struct rte_flow_error error;

	if (rte_flow_validate(port, &attr, pattern, actions, &error) != 0)
		return 0;
	return rte_flow_create(port, &attr, pattern, actions, &error) != NULL;
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

static uint8_t ipv4_verdict(uint64_t flags)
{
	switch (flags & RTE_MBUF_F_RX_IP_CKSUM_MASK) {
	case RTE_MBUF_F_RX_IP_CKSUM_GOOD:
	case RTE_MBUF_F_RX_IP_CKSUM_NONE: /* not correct in the data, but what it covers is */
		return DPDK_SHIM_CHECKSUM_GOOD;
	case RTE_MBUF_F_RX_IP_CKSUM_BAD:
		return DPDK_SHIM_CHECKSUM_BAD;
	default:
		return DPDK_SHIM_CHECKSUM_UNKNOWN;
	}
}

static uint8_t udp_verdict(uint64_t flags)
{
	switch (flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) {
	case RTE_MBUF_F_RX_L4_CKSUM_GOOD:
	case RTE_MBUF_F_RX_L4_CKSUM_NONE: /* as above */
		return DPDK_SHIM_CHECKSUM_GOOD;
	case RTE_MBUF_F_RX_L4_CKSUM_BAD:
		return DPDK_SHIM_CHECKSUM_BAD;
	default:
		return DPDK_SHIM_CHECKSUM_UNKNOWN;
	}
}

/* The bytes are somebody else's, or not all that came. */
#define ODD_FLAGS (RTE_MBUF_F_INDIRECT | RTE_MBUF_F_EXTERNAL | RTE_MBUF_F_RX_VLAN_STRIPPED)

uint16_t dpdk_shim_rx_burst(uint16_t port, uint16_t queue, const struct rte_mempool *pool, struct dpdk_shim_frame *frames, uint16_t max,
			    struct dpdk_shim_received *also)
{
	struct rte_mbuf *mbufs[DPDK_SHIM_BURST];
	uint16_t received = rte_eth_rx_burst(port, queue, mbufs, RTE_MIN(max, DPDK_SHIM_BURST));
	uint16_t kept = 0;

	for (uint16_t i = 0; i < received; i++) {
		struct rte_mbuf *mbuf = mbufs[i];

		if (unlikely(rte_mbuf_refcnt_read(mbuf) != 1 || mbuf->nb_segs != 1 || (mbuf->ol_flags & ODD_FLAGS) != 0 ||
			     mbuf->buf_len != DPDK_SHIM_MBUF_BYTES || mbuf->data_off + mbuf->data_len > DPDK_SHIM_MBUF_BYTES)) {
			rte_pktmbuf_free(mbuf);
			continue;
		}
		now_ours(mbuf);
		frames[kept].mbuf = mbuf;
		frames[kept].buffer = mbuf->buf_addr;
		frames[kept].head = mbuf->data_off;
		frames[kept].len = mbuf->data_len;
		frames[kept].ipv4_checksum = DPDK_SHIM_CHECKSUM_UNKNOWN;
		frames[kept].udp_checksum = DPDK_SHIM_CHECKSUM_UNKNOWN;
		if ((mbuf->ol_flags & (RTE_MBUF_F_RX_IP_CKSUM_MASK | RTE_MBUF_F_RX_L4_CKSUM_MASK)) != 0) {
			frames[kept].ipv4_checksum = ipv4_verdict(mbuf->ol_flags);
			frames[kept].udp_checksum = udp_verdict(mbuf->ol_flags);
		}
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
			now_ours(mbuf);
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
		if (frame->udp_checksum == DPDK_SHIM_CHECKSUM_FILL) {
			mbuf->ol_flags = RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_UDP_CKSUM;
			if (frame->ipv4_checksum == DPDK_SHIM_CHECKSUM_FILL)
				mbuf->ol_flags |= RTE_MBUF_F_TX_IP_CKSUM;
			mbuf->l2_len = sizeof(struct rte_ether_hdr);
			mbuf->l3_len = sizeof(struct rte_ipv4_hdr);
		}
		given_away(mbuf);
		mbufs[staged] = mbuf;
	}
	sent = rte_eth_tx_burst(port, queue, mbufs, staged);
	for (uint16_t i = sent; i < staged; i++) {
		if (frames[i].mbuf == NULL)
			copies[left++] = mbufs[i];
		else
			now_ours(mbufs[i]);
	}
	if (left > 0)
		rte_pktmbuf_free_bulk(copies, left);
	return sent;
}

int dpdk_shim_alloc(struct rte_mempool *pool, struct dpdk_shim_frame *frames, uint16_t count)
{
	struct rte_mbuf *mbufs[DPDK_SHIM_BURST];

	if (count == 1) {
		mbufs[0] = rte_pktmbuf_alloc(pool);
		if (mbufs[0] == NULL)
			return -1;
	} else if (count > DPDK_SHIM_BURST || rte_pktmbuf_alloc_bulk(pool, mbufs, count) != 0) {
		return -1;
	}
	for (uint16_t i = 0; i < count; i++) {
		now_ours(mbufs[i]);
		frames[i].mbuf = mbufs[i];
		frames[i].buffer = mbufs[i]->buf_addr;
		frames[i].head = mbufs[i]->data_off;
		frames[i].len = 0;
		frames[i].ipv4_checksum = DPDK_SHIM_CHECKSUM_UNKNOWN;
		frames[i].udp_checksum = DPDK_SHIM_CHECKSUM_UNKNOWN;
	}
	return 0;
}

void dpdk_shim_free(const struct dpdk_shim_frame *frames, uint16_t count)
{
	struct rte_mbuf *mbufs[DPDK_SHIM_BURST];

	if (count == 1) {
		given_away(frames[0].mbuf);
		rte_pktmbuf_free(frames[0].mbuf);
		return;
	}
	count = RTE_MIN(count, DPDK_SHIM_BURST);
	for (uint16_t i = 0; i < count; i++) {
		given_away(frames[i].mbuf);
		mbufs[i] = frames[i].mbuf;
	}
	rte_pktmbuf_free_bulk(mbufs, count);
}
