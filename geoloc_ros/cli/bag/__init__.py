# SPDX-License-Identifier: Apache-2.0
"""Convert and check rosbag2 recordings.

rosbag2 recordings, sqlite3 or MCAP: to and from flight folders, and whether they are fit for localization.
"""

VERBS = ("check", "from-flight", "to-flight")
