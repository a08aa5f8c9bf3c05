local user, disabled, ended_before = ARGV[4], ARGV[5] == '1', ARGV[6]
local there = { redis.call('SISMEMBER', DISABLED, user), redis.call('ZSCORE', FENCED, user) }
if disabled then redis.call('SADD', DISABLED, user) end
if ended_before ~= '' then redis.call('ZADD', FENCED, 'GT', ended_before, user) end
return there
