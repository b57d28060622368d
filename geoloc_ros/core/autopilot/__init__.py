# SPDX-License-Identifier: Apache-2.0
"""What an autopilot is sent, and how."""
