local from, to, newest_first, count = ARGV[4], ARGV[5], ARGV[6] == '1', ARGV[7]
local places
if newest_first then
  places = redis.call('ZREVRANGEBYLEX', INDEX, to, from, 'LIMIT', 0, count)
else
  places = redis.call('ZRANGEBYLEX', INDEX, from, to, 'LIMIT', 0, count)
end
local found = {}
for n, place in ipairs(places) do
  local id = id_at(place)
  local h = redis.call('HMGET', SESSION_KEYS .. id, 'w', 'i', 'v', 'n', 'y', 'o', 'x')
  found[n] = { place, id, redis.call('HGET', SEEN, id), h[1], h[2], h[3], h[4], h[5], h[6], h[7] }
end
return found
