# SPDX-License-Identifier: Apache-2.0
"""Every conversion between messages and the types of the core."""
