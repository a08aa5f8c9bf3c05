local number, lease = ARGV[4], tonumber(ARGV[5])
local found = look(SESSION, ID)
if found.state ~= 'live' then return 0 end
local h = redis.call('HMGET', SESSION, 'f', 'u')
if h[1] ~= number or NOW >= tonumber(h[2]) then return 0 end
redis.call('HSET', SESSION, 'u', int(math.max(tonumber(h[2]), math.min(NOW + lease, LATEST))))
return 1
