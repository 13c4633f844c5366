<?php
// Arrays, objects and strings, with the allocator of the C library.
class Record
{
    public array $tags = [];
    public ?Record $next = null;

    public function __construct(public string $name, public int $number)
    {
    }
}

$scale = (int) $argv[1];
$total = 0;
for ($round = 1; $round <= max(1, intdiv($scale, 7)); $round++) {
    $state = $round;
    $records = [];
    $last = null;
    for ($index = 0; $index < 12000; $index++) {
        $state = ($state * 1103515245 + 12345) & 0x7fffffff;
        $record = new Record("record-$index-$state", $state % 1000);
        for ($tag = 0; $tag < $state % 4; $tag++) {
            $record->tags["tag" . ($state % 50 + $tag)] = str_repeat("x", $state % 90);
        }
        $record->next = $state % 3 ? $last : null;
        $last = $record;
        $records[] = $record;
    }
    usort($records, fn ($one, $other) => [$one->number, $one->name] <=> [$other->number, $other->name]);
    $by = [];
    foreach ($records as $record) {
        $by[$record->number % 100][] = $record->name;
        $total += count($record->tags) + ($record->next ? 1 : 0);
    }
    foreach ($by as $names) {
        $total += strlen(implode(",", array_map("strtoupper", $names)));
    }
}
echo $total, "\n";
