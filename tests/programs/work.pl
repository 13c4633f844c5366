# Hashes, regular expressions, closures, sorting, a pipe to a child.
use strict;
use warnings;
my $seed = 7;
my $part = $ENV{WORK_PART} || 1;
sub number { $seed = ($seed * 1103515245 + 12345) % 2147483648; return $seed >> 4 }
my (%count, @rows);
for my $i (1 .. 30000 / $part) {
    my $n = number();
    my $word = join '', map { chr(97 + ($n >> $_) % 26) } 0 .. $n % 9;
    $count{$word}{$n % 17} += $i;
    push @rows, { n => $n, word => $word, list => [ ($n % 5) x ($n % 11) ] } if $i % 3 == 0;
}
my @top = sort { keys %{ $count{$b} } <=> keys %{ $count{$a} } || $a cmp $b } keys %count;
print scalar(@top), " words, ", join(' ', @top[ 0 .. 20 ]), "\n";
my @sorted = sort { $a->{word} cmp $b->{word} || $a->{n} <=> $b->{n} } @rows;
my $text = join "\n", map { "$_->{word}:$_->{n}:" . join ',', @{ $_->{list} } } @sorted;
my $hits = () = $text =~ /^([a-m]+)[n-z]*:(\d+)/mg;
(my $changed = $text) =~ s/(\d)(\d+)/$2$1/g;
$changed =~ tr/a-z/n-za-m/;
print "$hits hits, ", length($changed), " bytes, ", unpack('%32C*', $changed), "\n";
my @closures = map { my $k = $_; sub { return $k * shift() } } 1 .. 5000 / $part;
my $sum = 0;
$sum += $closures[$_]->($_) for 0 .. $#closures;
print "sum $sum\n";
my $grown = '';
$grown .= 'abc' x (number() % 300) for 1 .. 4000 / $part;
print length($grown), ' ', unpack('%32C*', $grown), "\n";
@rows = @sorted = ();
pipe(my $reader, my $writer) or die;
my $child = fork();
if (!$child) {
    close $reader;
    print $writer join(',', map { $_ ** 2 } 1 .. 3000);
    close $writer;
    exit 5;
}
close $writer;
my $heard = do { local $/; <$reader> };
waitpid $child, 0;
print length($heard), ' ', $? >> 8, "\n";
open my $out, '>', 'perl.out' or die;
print $out "$_ $count{$_}{0}\n" for grep { exists $count{$_}{0} } sort keys %count;
close $out;
warn "perl said so on stderr\n";
exit 4;
