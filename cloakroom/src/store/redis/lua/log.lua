local at, event, who = ARGV[4], ARGV[5], ARGV[6]
log(event, at, ID, who, { r = optional(ARGV[7]), b = optional(ARGV[8]), m = optional(ARGV[9]) })
