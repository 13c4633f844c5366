# Regular expressions, substitution, splitting, joining and growing strings.
use strict;
use warnings;

my $scale = shift;
my ($total, $state) = (0, 1);
my @words = map { $state = ($state * 1103515245 + 12345) & 0x7fffffff; sprintf "w%x", $state } 1 .. 6000;
my $text = join " ", @words;
for my $round (1 .. int($scale / 4) || 1) {
    my $copy = $text;
    $copy =~ s/([a-f]+)(\d+)/<$2:$1>/g;
    my @found = $copy =~ /<(\d+):([a-f]+)>/g;
    my @fields = map { [split /[:<>]/] } split / /, $copy;
    my $built = "";
    $built .= join("-", map { defined $_ ? $_ : "" } reverse @$_) . "\n" for @fields;
    $total += length($built) + @found;
    $total += length $_ for map { uc substr($_, 0, 40) } split /\n/, $built;
}
print "$total\n";
