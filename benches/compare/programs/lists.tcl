# Lists, dictionaries and strings that are built, split and dropped.
proc build {round} {
    set state $round
    set people [dict create]
    for {set index 0} {$index < 4000} {incr index} {
        set state [expr {($state * 1103515245 + 12345) & 0x7fffffff}]
        set key "key[expr {$state % 700}]"
        dict lappend people $key "entry $index of $state"
    }
    return $people
}
set total 0
set rounds [expr {max(1, [lindex $argv 0] * 3 / 4)}]
for {set round 1} {$round <= $rounds} {incr round} {
    set people [build $round]
    set lines {}
    dict for {key entries} $people {
        lappend lines "$key=[join [lsort $entries] {;}]"
    }
    set text [string map {entry e of {from a}} [join $lines "\n"]]
    foreach line [split $text "\n"] {
        set parts [split $line "=;"]
        incr total [expr {[llength $parts] + [string length [lindex $parts end]]}]
    }
}
puts $total
