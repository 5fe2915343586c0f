/* SPDX-License-Identifier: Apache-2.0 */
/* The header before every packet of a TUN device with IFF_VNET_HDR (struct virtio_net_hdr, host byte order),
 * and what such a device was found to do. Debian 12's kernel headers lack the USO part (Linux 6.2). */
#ifndef JV_VNET_H
#define JV_VNET_H

#include "jv/common.h"

#define JV_VNET_NEEDS_CSUM 1u

#define JV_VNET_GSO_NONE   0u
#define JV_VNET_GSO_TCPV4  1u
#define JV_VNET_GSO_TCPV6  4u
#define JV_VNET_GSO_UDP_L4 5u
#define JV_VNET_GSO_ECN 0x80u /* beside TCPV4 or TCPV6: CWR is set, and belongs to the first segment only */

struct jv_vnet {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t hdr_len;     /* a hint only: the kernel writes the length of its linear part */
    uint16_t gso_size;    /* payload of every segment but the last */
    uint16_t csum_start;  /* where the sum begins: the transport header */
    uint16_t csum_offset; /* of the checksum field from there; it holds the sum of the pseudo-header */
};

_Static_assert(sizeof(struct jv_vnet) == 10, "the kernel's header has 10 bytes");

/* Features of an open device. Without JV_TUN_VNET there is no header; a TSO or USO bit means super-packets of
 * that kind both ways. */
#define JV_TUN_VNET 1u
#define JV_TUN_TSO4 2u
#define JV_TUN_TSO6 4u
#define JV_TUN_USO4 8u
#define JV_TUN_USO6 16u

#endif
