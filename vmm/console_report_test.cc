#include "vmm/console_report.h"

#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using Values = std::map<std::string, std::string>;

ConsoleReport Read(absl::string_view console) {
  ConsoleReport report;
  report.Add(console);
  return report;
}

TEST(ConsoleReportTest, KeepsTheLatestValueOfEachKey) {
  const ConsoleReport report = Read(
      "quire: boot=ok kernel=6.12.1+x cpus=2\r\n"
      "quire: progress=1\r\nquire: progress=2\r\n"
      "quire: checked=123 wrong=0\r\n");
  EXPECT_EQ(report.values(), (Values{{"boot", "ok"},
                                     {"kernel", "6.12.1+x"},
                                     {"cpus", "2"},
                                     {"progress", "2"},
                                     {"checked", "123"},
                                     {"wrong", "0"}}));
  EXPECT_EQ(report.Get("progress"), "2");
  EXPECT_EQ(report.Get("result"), "");
  EXPECT_EQ(report.dropped(), 0u);
}

TEST(ConsoleReportTest, TakesPiecesOfAnySize) {
  const std::string console = "noise\r\nquire: result=failed why=2 of 9 were wrong\r\nquire: x=1 y=2\n";
  const ConsoleReport whole = Read(console);
  EXPECT_EQ(whole.values().size(), 4u);
  for (size_t size = 1; size < console.size(); ++size) {
    ConsoleReport report;
    for (size_t at = 0; at < console.size(); at += size) report.Add(absl::string_view(console).substr(at, size));
    EXPECT_EQ(report.values(), whole.values()) << size;
  }
}

TEST(ConsoleReportTest, ALineCountsWhenItHasEnded) {
  ConsoleReport report = Read("quire: checked=12");
  EXPECT_EQ(report.values(), Values());
  report.Add("3");
  EXPECT_EQ(report.values(), Values());
  report.Add("\r");
  EXPECT_EQ(report.values(), (Values{{"checked", "123"}}));
}

TEST(ConsoleReportTest, NoiseOnOtherLinesAndBeforeTheReportDoesNoHarm) {
  const ConsoleReport report = Read(
      "[    0.1] Linux version a=b\n\n\r\r\nquire:x=1\nQUIRE: x=1\nSeaBIOS \x1b[2Jquire: a=1\n"
      "quire: b=1 quire: c=1\n");
  EXPECT_EQ(report.values(), (Values{{"a", "1"}, {"c", "1"}}));
}

TEST(ConsoleReportTest, WordsThatAreNoPairsAreSkipped) {
  const ConsoleReport report = Read("quire:   hello a=1  =2 B=3 c-d=4 e= f==5 g\th=6 =\n");
  EXPECT_EQ(report.values(), (Values{{"a", "1"}, {"e", ""}, {"f", "=5"}, {"h", "6"}}));
  EXPECT_EQ(report.dropped(), 0u);
}

TEST(ConsoleReportTest, AReasonGoesToTheEndOfItsLine) {
  const ConsoleReport report = Read("quire: a=1 why=tmpfs is full: b=2 of 3 \r\n");
  EXPECT_EQ(report.values(), (Values{{"a", "1"}, {"why", "tmpfs is full: b=2 of 3"}}));
}

TEST(ConsoleReportTest, ValuesArePrintable) {
  const ConsoleReport report = Read(absl::string_view("quire: a=\xff\0\x1bz\xc3 why=\x7f\tx\n", 23));
  EXPECT_EQ(report.values(), (Values{{"a", "???z?"}, {"why", "? x"}}));
}

TEST(ConsoleReportTest, TakesNothingOfALineThatIsTooLong) {
  const std::string start = "quire: a=1 ";
  const std::string longest = start + std::string(ConsoleReport::kLongestLine - start.size(), 'x');
  EXPECT_EQ(Read(longest + "\n").Get("a"), "1");
  ConsoleReport report = Read(longest + "x\n");
  EXPECT_EQ(report.Get("a"), "");
  EXPECT_EQ(report.dropped(), 1u);
  report.Add("quire: a=2\n");
  EXPECT_EQ(report.Get("a"), "2");
}

TEST(ConsoleReportTest, ALineWithoutEndTakesNoMemory) {
  ConsoleReport report = Read("quire: a=");
  for (int i = 0; i < 10000; ++i) report.Add(std::string(1000, 'x'));
  report.Add("\nquire: b=1\n");
  EXPECT_EQ(report.values(), (Values{{"b", "1"}}));
}

TEST(ConsoleReportTest, EndlessKeysAreDroppedAndCounted) {
  ConsoleReport report;
  for (size_t i = 0; i < ConsoleReport::kMostKeys + 10; ++i) report.Add(absl::StrCat("quire: k", i, "=1\n"));
  EXPECT_EQ(report.values().size(), ConsoleReport::kMostKeys);
  EXPECT_EQ(report.dropped(), 10u);
  report.Add("quire: k0=2\n");
  EXPECT_EQ(report.Get("k0"), "2") << "a key that is there can still change";
}

TEST(ConsoleReportTest, LongKeysAndValuesAreDroppedAndCounted) {
  const std::string key(ConsoleReport::kLongestKey, 'k');
  const std::string value(ConsoleReport::kLongestValue, 'v');
  ConsoleReport report = Read(absl::StrCat("quire: ", key, "=", value, "\n"));
  EXPECT_EQ(report.values(), (Values{{key, value}}));
  report.Add(absl::StrCat("quire: ", key, "k=1 ", key, "=", value, "v a=1\n"));
  EXPECT_EQ(report.values(), (Values{{key, value}, {"a", "1"}}));
  EXPECT_EQ(report.dropped(), 2u);
}

TEST(ConsoleReportTest, OperationsAreANumberOrNone) {
  ConsoleReport report;
  EXPECT_EQ(report.operations(), 0u);
  for (const auto& [said, operations] : std::initializer_list<std::pair<const char*, uint64_t>>{
           {"12", 12}, {"18446744073709551615", UINT64_MAX}, {"18446744073709551616", 0}, {"-1", 0}, {"many", 0}}) {
    report.Add(absl::StrCat("quire: operations=", said, "\n"));
    EXPECT_EQ(report.operations(), operations) << said;
  }
}

}  // namespace
}  // namespace quire
