# SPDX-License-Identifier: Apache-2.0
"""The narrow door to the C data plane. Wrappers hold no policy; engine is what the gateway runs on."""
