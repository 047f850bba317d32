#include "vmm/text.h"

#include <cstdint>
#include <limits>

#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(ParseSizeTest, ReadsBytesUnitsAndFractions) {
  EXPECT_EQ(ParseSize("0"), ByteCount());
  EXPECT_EQ(ParseSize("4096"), ByteCount::KiB(4));
  EXPECT_EQ(ParseSize("4K"), ByteCount::KiB(4));
  EXPECT_EQ(ParseSize("256M"), ByteCount::MiB(256));
  EXPECT_EQ(ParseSize("256m"), ByteCount::MiB(256));
  EXPECT_EQ(ParseSize("256MiB"), ByteCount::MiB(256));
  EXPECT_EQ(ParseSize("1.5G"), ByteCount::MiB(1536));
  EXPECT_EQ(ParseSize("0.25T"), ByteCount::GiB(256));
}

TEST(ParseSizeTest, RefusesWhatIsNoSize) {
  for (const char* text : {"",      "M",    "x",  "12x", "-1",  "+1",     " 1",    "1 M", "1e9",   "0x10",
                           "256MB", "256B", "iB", "1.M", ".5G", "1.2.3M", "1.-5M", "1.5", "256Mi", "KiBiB"}) {
    EXPECT_EQ(ParseSize(text), std::nullopt) << text;
  }
}

TEST(ParseSizeTest, RefusesPartsOfAByte) {
  EXPECT_EQ(ParseSize("0.3K"), std::nullopt);
  EXPECT_EQ(ParseSize("0.0009765625K"), ByteCount::Bytes(1));
}

TEST(ParseSizeTest, RefusesWhatDoesNotFitIn64Bits) {
  EXPECT_EQ(ParseSize("18446744073709551615"), ByteCount::Bytes(std::numeric_limits<uint64_t>::max()));
  EXPECT_EQ(ParseSize("18446744073709551616"), std::nullopt);
  EXPECT_EQ(ParseSize("16777215T"), ByteCount::Bytes(uint64_t{16777215} << 40));
  EXPECT_EQ(ParseSize("16777216T"), std::nullopt);
  EXPECT_EQ(ParseSize("1.00000000000000000000000000000000000000000001T"), std::nullopt);
}

TEST(SizeToFlagTest, IsShortAndReadsBack) {
  EXPECT_EQ(SizeToFlag(ByteCount()), "0");
  EXPECT_EQ(SizeToFlag(ByteCount::Bytes(4097)), "4097");
  EXPECT_EQ(SizeToFlag(ByteCount::KiB(4)), "4K");
  EXPECT_EQ(SizeToFlag(ByteCount::MiB(1536)), "1536M");
  EXPECT_EQ(SizeToFlag(ByteCount::GiB(2)), "2G");
  for (uint64_t bytes : {uint64_t{1}, uint64_t{12345}, uint64_t{3} << 40, std::numeric_limits<uint64_t>::max()}) {
    EXPECT_EQ(ParseSize(SizeToFlag(ByteCount::Bytes(bytes))), ByteCount::Bytes(bytes));
  }
}

TEST(FormatTest, SizesHaveThreeDigits) {
  EXPECT_EQ(FormatSize(ByteCount()), "0 bytes");
  EXPECT_EQ(FormatSize(ByteCount::Bytes(1)), "1 byte");
  EXPECT_EQ(FormatSize(ByteCount::MiB(256)), "256 MiB");
  EXPECT_EQ(FormatSize(ByteCount::MiB(1536)), "1.5 GiB");
  EXPECT_EQ(FormatSize(ByteCount::KiB(24684264)), "23.5 GiB");
}

TEST(FormatTest, Numbers) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(1000), "1,000");
  EXPECT_EQ(FormatCount(1234567), "1,234,567");
  EXPECT_EQ(FormatShort(812), "812");
  EXPECT_EQ(FormatShort(45300), "45.3k");
  EXPECT_EQ(FormatShort(1.23e6), "1.23M");
  EXPECT_EQ(FormatShort(2e9), "2G");
  EXPECT_EQ(Plural(1, "guest"), "1 guest");
  EXPECT_EQ(Plural(4000, "guest"), "4,000 guests");
}

TEST(SentenceTest, EndsOnce) {
  EXPECT_EQ(Sentence("it is so"), "it is so.");
  EXPECT_EQ(Sentence("it is so."), "it is so.");
  EXPECT_EQ(Sentence("did you mean --guests?"), "did you mean --guests?");
}

TEST(NearestTest, FindsTypingErrorsAndBeginnings) {
  const std::vector<std::string> words = {"guests", "memory", "pool", "seed", "seconds"};
  EXPECT_EQ(Nearest("guest", words), "guests");
  EXPECT_EQ(Nearest("memroy", words), "memory");
  EXPECT_EQ(Nearest("pol", words), "pool");
  EXPECT_EQ(Nearest("sec", words), "seconds");
  EXPECT_EQ(Nearest("verbose", words), "");
  EXPECT_EQ(Nearest("x", words), "");
  EXPECT_EQ(Nearest("", words), "");
}

TEST(WrapTest, BreaksAtSpacesAndIndents) {
  EXPECT_EQ(Wrap("one two three", 100, 4), "one two three");
  EXPECT_EQ(Wrap("one two three", 11, 4), "one two\n    three");
  EXPECT_EQ(Wrap("incomprehensibilities one", 8, 2), "incomprehensibilities\n  one");
  EXPECT_EQ(Wrap("", 8, 2), "");
}

TEST(TextTest, WhatWouldDoSomethingToATerminalIsShown) {
  EXPECT_EQ(Printable("a b\"\xc3\xbc"), "a b\"\xc3\xbc");
  EXPECT_EQ(Printable("a\nb\x1b[31m\x7f"), "a\\nb\\x1b[31m\\x7f");
}

}  // namespace
}  // namespace quire
