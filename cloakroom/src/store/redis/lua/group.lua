-- KEYS of a script on a group; sessions named by the caller follow. ARGV: again, now, what session keys begin with, …
local EXPIRY, SEEN, INDEX, RETRIES, BURIED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local FENCED, DISABLED, AUDIT, TODO = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local SESSION_KEYS = ARGV[3]
