local ending = { reason = ARGV[4], by = optional(ARGV[5]), note = optional(ARGV[6]) }
local answers = {}
for n = 0, #ARGV - 7 do answers[n + 1] = finish(KEYS[10 + n], ARGV[7 + n], ending) end
return answers
