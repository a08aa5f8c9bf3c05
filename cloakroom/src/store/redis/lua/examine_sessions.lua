-- Whether the indexes have what they must of sessions and tombstones. For each: its id, its place in the index, and when
-- it was used last at the earliest. Answers with what is wrong, a word each.
local mends = ARGV[4] == '1'
local answers = {}
for n = 0, (#ARGV - 4) / 3 - 1 do
  local id, place, since = ARGV[5 + 3 * n], ARGV[6 + 3 * n], tonumber(ARGV[7 + 3 * n])
  local session = KEYS[10 + n]
  local wrong = {}
  local function is_wrong(word)
    wrong[#wrong + 1] = word
    return mends
  end
  local h = redis.call('HMGET', session, 'w', 't', 'o', 'x', 'p', 'e')
  if h[1] and h[2] then
    local score = redis.call('ZSCORE', BURIED, id)
    if not (score and tonumber(score) == tonumber(h[2])) and is_wrong('tombstones') then
      redis.call('ZADD', BURIED, h[2], id)
    end
  elseif h[1] then
    local score = redis.call('ZSCORE', EXPIRY, id)
    if (h[5] ~= place or not redis.call('ZSCORE', INDEX, place)) and is_wrong('users') then
      if h[5] then redis.call('ZREM', INDEX, h[5]) end
      redis.call('HSET', session, 'p', place)
      redis.call('ZADD', INDEX, 0, place)
    end
    local seen = redis.call('HGET', SEEN, id)
    if not seen then
      -- The deadline tells, and is never later than the truth.
      seen = score and h[3] and math.max(since, tonumber(score) - tonumber(h[3])) or since
      if is_wrong('seen') then redis.call('HSET', SEEN, id, int(seen)) end
    end
    local at = deadline(seen, h[3], h[4])
    if (at or nil) ~= (score and tonumber(score) or nil) and is_wrong('expiry') then expire_at(id, at) end
    if h[6] and not redis.call('HGET', RETRIES, h[6]) and is_wrong('retries') then
      redis.call('HSET', RETRIES, h[6], id)
    end
  elseif redis.call('EXISTS', session) == 1 then
    is_wrong('damaged')
  end
  answers[n + 1] = wrong
end
return answers
