# Hashes of arrays and hashes of hashes.
use strict;
use warnings;

my $scale = shift;
my $total = 0;
for my $round (1 .. int($scale / 5) || 1) {
    my (%lines, %tree);
    my $state = $round;
    for my $index (1 .. 30000) {
        $state = ($state * 1103515245 + 12345) & 0x7fffffff;
        my $word = "word" . $state % 9000;
        push @{ $lines{$word} }, $index;
        $tree{ $state % 100 }{$word}{count}++;
    }
    delete @lines{ grep { @{ $lines{$_} } < 3 } keys %lines };
    $total += scalar(keys %lines);
    for my $branch (sort { $a <=> $b } keys %tree) {
        $total += $_->{count} for values %{ $tree{$branch} };
    }
}
print "$total\n";
