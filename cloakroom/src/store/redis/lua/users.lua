local found = {}
for n, user in ipairs(redis.call('ZRANGEBYLEX', NAMES, ARGV[3], '+', 'LIMIT', 0, ARGV[4])) do
  found[n] = { user, redis.call('HGET', SETTINGS, user), redis.call('HGET', SIGNED_IN, user) }
end
return found
