local ending = { reason = ARGV[4], by = optional(ARGV[5]), note = optional(ARGV[6]) }
local user, user_from, user_to, disable = ARGV[7], ARGV[8], ARGV[9], ARGV[10] == 'disabled'
local except = {}
for at = 11, #ARGV do except[ARGV[at]] = true end

local ids = {}
for _, place in ipairs(redis.call('ZREVRANGEBYLEX', INDEX, user_to, user_from)) do
  local id = id_at(place)
  if not except[id] then
    redis.call('EXISTS', SESSION_KEYS .. id)
    ids[#ids + 1] = id
  end
end
redis.call('ZADD', FENCED, 'GT', int(NOW), user)
if disable then redis.call('SADD', DISABLED, user) end
local ended = {}
for _, id in ipairs(ids) do
  local answer = finish(SESSION_KEYS .. id, id, ending)
  if answer[1] == 'now' then
    answer[1] = id
    ended[#ended + 1] = answer
  end
end
return ended
