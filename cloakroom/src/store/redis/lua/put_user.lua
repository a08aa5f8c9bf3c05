local user, was, settings, signed_in = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
-- A script rolls nothing back: look at every key before the first write.
local known = redis.call('HGET', SIGNED_IN, user)
redis.call('ZSCORE', NAMES, user)
local is = redis.call('HGET', SETTINGS, user)
is = is and '=' .. is or ''
if is ~= settings and is ~= was then return 0 end
if settings == '' then
  redis.call('ZREM', NAMES, user)
  redis.call('HDEL', SETTINGS, user)
  redis.call('HDEL', SIGNED_IN, user)
  return 1
end
redis.call('ZADD', NAMES, 0, user)
redis.call('HSET', SETTINGS, user, string.sub(settings, 2))
if signed_in ~= '' and not (known and tonumber(string.match(known, '^%S+')) > tonumber(string.match(signed_in, '^%S+'))) then
  redis.call('HSET', SIGNED_IN, user, signed_in)
end
return 1
