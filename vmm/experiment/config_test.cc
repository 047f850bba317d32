#include "vmm/experiment/config.h"

#include <random>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

enum class Fruit : uint8_t { kApple, kPear };
absl::string_view Name(Fruit fruit) { return fruit == Fruit::kApple ? "apple" : "pear"; }

ConfigNode Parse(absl::string_view text) {
  absl::StatusOr<ConfigNode> root = ParseToml("f.toml", text);
  EXPECT_TRUE(root.ok()) << root.status();
  return root.ok() ? *std::move(root) : ConfigNode{};
}

std::string WhyNoToml(absl::string_view text) {
  const absl::StatusOr<ConfigNode> root = ParseToml("f.toml", text);
  EXPECT_TRUE(absl::IsInvalidArgument(root.status()));
  return std::string(root.status().message());
}

TEST(ConfigTest, NodesKnowTheirLinesAndTablesAreInTheirOrder) {
  const ConfigNode root = Parse("z = 1\n\n[b]\nx = \"y\"\n\n[a]\nlist = [\n  1,\n  2.5,\n  true]\n");
  ASSERT_EQ(root.table.size(), 3u);
  EXPECT_EQ(root.table[0].first, "z");
  EXPECT_EQ(root.table[1].first, "b");
  EXPECT_EQ(root.table[2].first, "a");
  EXPECT_EQ(root.Find("z")->line, 1);
  EXPECT_EQ(root.Find("b")->line, 3);
  EXPECT_EQ(root.Find("b")->Find("x")->line, 4);
  const ConfigNode& list = *root.Find("a")->Find("list");
  ASSERT_EQ(list.array.size(), 3u);
  EXPECT_EQ(list.array[1].line, 9);
  EXPECT_EQ(list.array[1].scalar, 2.5);
  EXPECT_EQ(root.Find("none"), nullptr);
}

TEST(ConfigTest, DottedKeysMakeTablesWithLines) {
  const ConfigNode root = Parse("\nguests.idle.count = 3\nguests.busy.count = 4\n");
  EXPECT_EQ(root.Find("guests")->line, 2);
  EXPECT_EQ(root.Find("guests")->Find("busy")->line, 3);
  EXPECT_EQ(root.ToJson().dump(), R"({"guests":{"busy":{"count":4},"idle":{"count":3}}})");
}

TEST(ConfigTest, DatesAreText) {
  EXPECT_EQ(Parse("d = 1979-05-27T07:32:00Z").Find("d")->scalar, "1979-05-27T07:32:00Z");
}

TEST(ConfigTest, WhatIsNoTomlIsNamedWithFileAndLine) {
  EXPECT_THAT(WhyNoToml("a = 1\nb =\n"), StartsWith("f.toml:2: this is no TOML: "));
  EXPECT_THAT(WhyNoToml("a = 1\na = 2\n"), StartsWith("f.toml:2: "));
  EXPECT_THAT(WhyNoToml("a = \"\n"), StartsWith("f.toml:"));
  EXPECT_THAT(WhyNoToml("\n[=x]\n"), StartsWith("f.toml:2: this is no TOML: "));
  EXPECT_THAT(WhyNoToml("\n \xc3\xbc = 1\n"), StartsWith("f.toml:2: this is no TOML: "));
  EXPECT_THAT(WhyNoToml(absl::string_view("\xff\xfe\0", 3)), StartsWith("f.toml:1: "));
}

// A table for each dot: what is converted and freed table by table, by functions that call themselves, would use up
// the stack.
TEST(ConfigTest, KeysThatAreTooDeepAreRefused) {
  std::string deep = "a";
  for (int i = 0; i < 400'000; ++i) deep += ".a";
  EXPECT_THAT(WhyNoToml("x = 1\n" + deep + " = 1\n"), StartsWith("f.toml:2: this line has more than 200 dots"));
  EXPECT_THAT(WhyNoToml("[" + deep + "]\n"), StartsWith("f.toml:1: this line has more than 200 dots"));
  EXPECT_THAT(WhyNoToml("a = " + std::string(100'000, '[')), StartsWith("f.toml:1: this is no TOML: "));
}

// The deepest that there can be: a header, a key, and tables in arrays in tables, each with as many dots.
TEST(ConfigTest, WhatIsAsDeepAsCanBeIsRead) {
  std::string key = "a";
  for (int i = 0; i < 200; ++i) key += ".a";
  std::string text = "[" + key + "]\n" + key + " = [\n";
  for (int i = 0; i < 3; ++i) text += "{ " + key + " = [\n";
  text += "1\n";
  for (int i = 0; i < 3; ++i) text += "] }\n";
  text += "]\n";
  ConfigNode root = Parse(text);
  const ConfigNode copy = root;
  Override(copy, root);
  EXPECT_FALSE(root.ToJson().dump().empty());
}

TEST(ConfigTest, AnyBytesAreReadOrRefused) {
  std::mt19937 random(1);
  const std::string good = "a.b = [1, 2.5, \"x\"]\n[t]\nk = { y = true }\n[[u]]\nv = '''x'''\nd = 1979-05-27\n";
  for (int round = 0; round < 20'000; ++round) {
    std::string text = good;
    for (int i = 0; i < 3; ++i) text[random() % text.size()] = static_cast<char>(random());
    const absl::StatusOr<ConfigNode> root = ParseToml("f.toml", text);
    if (root.ok()) continue;
    EXPECT_THAT(std::string(root.status().message()), StartsWith("f.toml:"));
  }
}

TEST(ConfigTest, MessagesHaveNoControlCharacters) {
  const absl::Status status = ConfigError("f.toml", 3, "no \x1b[31m\n\"\xc3\xbc\"");
  EXPECT_EQ(status.message(), "f.toml:3: no \\x1b[31m\\n\"\xc3\xbc\"");
}

TEST(ConfigTest, OverridesCountKeyByKeyInTablesAndWholeElsewhere) {
  ConfigNode root = Parse("[run]\npool = 1\nseconds = 2\n[matrix]\nx = [1, 2]\ny = 5\n");
  Override(Parse("[run]\nseconds = 3\nmore = 4\n[matrix]\nx = [7]\ny.z = 6\n"), root);
  EXPECT_EQ(root.ToJson().dump(), R"({"matrix":{"x":[7],"y":{"z":6}},"run":{"more":4,"pool":1,"seconds":3}})");
}

TEST(ConfigTest, SetAtMakesTheTablesOnTheWay) {
  ConfigNode root = Parse("[run]\npool = 1\n");
  SetAt("run.pool", ConfigNode{.line = 9, .scalar = 2}, root);
  SetAt("guests.idle.count", ConfigNode{.line = 8, .scalar = 3}, root);
  SetAt("run.pool.deeper", ConfigNode{.line = 7, .scalar = 4}, root);
  EXPECT_EQ(root.ToJson().dump(), R"({"guests":{"idle":{"count":3}},"run":{"pool":{"deeper":4}}})");
  EXPECT_EQ(root.Find("guests")->line, 8);
}

class ConfigReaderTest : public testing::Test {
 protected:
  // Reads one key of a table with it, and says what was wrong.
  template <class Read>
  static std::string Why(const std::string& value, Read read) {
    const ConfigNode root = Parse(absl::StrCat("\nkey = ", value, "\n"));
    ConfigReader reader("f.toml", "[run]", root);
    read(reader);
    return std::string(reader.Finish().message());
  }
};

TEST_F(ConfigReaderTest, GivesWhatIsThereAndLeavesTheRestAlone) {
  const ConfigNode root = Parse(
      "text = \"a\"\nyes = true\nwhole = 7\nnumber = 3\nsize = \"1.5K\"\nbytes = 4096\nstrings = [\"a\", \"b\"]\n"
      "one = \"c\"\nfruit = \"pear\"\n[table]\n");
  ConfigReader reader("f.toml", "the file", root);
  std::string text = "z";
  std::optional<std::string> none;
  bool yes = false;
  int64_t whole = 0, missing = 5;
  double number = 0;
  std::optional<ByteCount> size, bytes;
  std::vector<std::string> strings, one;
  Fruit fruit = Fruit::kApple;
  reader.Read("text", text);
  reader.Read("none", none);
  reader.Read("yes", yes);
  reader.ReadWhole("whole", 7, 7, whole);
  reader.ReadWhole("missing", 0, 1, missing);
  reader.ReadNumber("number", 0, 3, number);
  reader.ReadSize("size", size);
  reader.ReadSize("bytes", bytes);
  reader.ReadStrings("strings", strings);
  reader.ReadStrings("one", one);
  reader.ReadEnum("fruit", {Fruit::kApple, Fruit::kPear}, fruit);
  EXPECT_NE(reader.Table("table"), nullptr);
  EXPECT_EQ(reader.Tables("tables"), nullptr);
  EXPECT_EQ(reader.Finish(), absl::OkStatus());
  EXPECT_EQ(text, "a");
  EXPECT_FALSE(none.has_value());
  EXPECT_TRUE(yes);
  EXPECT_EQ(whole, 7);
  EXPECT_EQ(missing, 5);
  EXPECT_EQ(number, 3);
  EXPECT_EQ(size, ByteCount::Bytes(1536));
  EXPECT_EQ(bytes, ByteCount::KiB(4));
  EXPECT_THAT(strings, ElementsAre("a", "b"));
  EXPECT_THAT(one, ElementsAre("c"));
  EXPECT_EQ(fruit, Fruit::kPear);
}

TEST_F(ConfigReaderTest, SaysWhatAKeyIsToBe) {
  std::string text;
  bool yes = false;
  int64_t whole = 0;
  double number = 0;
  std::optional<ByteCount> size;
  std::vector<std::string> strings;
  Fruit fruit = Fruit::kApple;
  const auto read_text = [&](ConfigReader& r) { r.Read("key", text); };
  const auto read_bool = [&](ConfigReader& r) { r.Read("key", yes); };
  const auto read_whole = [&](ConfigReader& r) { r.ReadWhole("key", 1, 9, whole); };
  const auto read_number = [&](ConfigReader& r) { r.ReadNumber("key", 0.5, 2, number); };
  const auto read_size = [&](ConfigReader& r) { r.ReadSize("key", size); };
  const auto read_strings = [&](ConfigReader& r) { r.ReadStrings("key", strings); };
  const auto read_fruit = [&](ConfigReader& r) { r.ReadEnum("key", {Fruit::kApple, Fruit::kPear}, fruit); };
  EXPECT_EQ(Why("1", read_text), "f.toml:2: key in [run] is to be text between quotes");
  EXPECT_EQ(Why("[\"a\"]", read_text), "f.toml:2: key in [run] is to be text between quotes");
  EXPECT_EQ(Why("\"true\"", read_bool), "f.toml:2: key in [run] is to be true or false");
  EXPECT_EQ(Why("10", read_whole), "f.toml:2: key in [run] is to be a whole number from 1 to 9, and 10 is none");
  EXPECT_EQ(Why("1.0", read_whole), "f.toml:2: key in [run] is to be a whole number from 1 to 9");
  for (const char* none : {"nan", "inf", "-inf", "0.4", "2.1"}) {
    EXPECT_THAT(Why(none, read_number), StartsWith("f.toml:2: key in [run] is to be a number from 0.5 to 2, and "));
  }
  for (const char* none : {"\"256MB\"", "-1", "1.5", "true", "[1]", "{}", "\"\"", "\"99999999999999999999T\""}) {
    EXPECT_THAT(Why(none, read_size), HasSubstr("key in [run] is to be a size such as \"256M\"")) << none;
  }
  for (const char* none : {"1", "[1]", "{}", "[[\"a\"]]"}) {
    EXPECT_THAT(Why(none, read_strings), HasSubstr("between quotes")) << none;
  }
  EXPECT_EQ(Why("\"aple\"", read_fruit), "f.toml:2: key in [run] cannot be \"aple\": write \"apple\", \"pear\"");
  EXPECT_EQ(Why("3", read_fruit), "f.toml:2: key in [run] is to be text between quotes");
  EXPECT_THAT(Why("3", [](ConfigReader& r) { r.Table("key"); }), HasSubstr("write [key] and its keys below"));
  EXPECT_THAT(Why("[3]", [](ConfigReader& r) { r.Tables("key"); }), HasSubstr("write [[key]] before the keys of each"));
}

TEST_F(ConfigReaderTest, AKeyThatNobodyHasAskedForIsAnErrorWithASuggestion) {
  const ConfigNode root = Parse("seconds = 1\n\nsecond = 2\n");
  ConfigReader reader("f.toml", "[run]", root);
  double seconds = 0;
  reader.ReadNumber("seconds", 0, 9, seconds);
  EXPECT_EQ(reader.Finish().message(), "f.toml:3: \"second\" is no key of [run]: \"seconds\" may be meant");

  const ConfigNode other = Parse("frobnicate = 2\n");
  ConfigReader strange("f.toml", "[run]", other);
  strange.ReadNumber("pool", 0, 9, seconds);
  strange.ReadNumber("merge", 0, 9, seconds);
  EXPECT_EQ(strange.Finish().message(), "f.toml:1: \"frobnicate\" is no key of [run]: there are pool, merge");
}

TEST_F(ConfigReaderTest, TellsOfWhatWasWrongFirst) {
  const ConfigNode root = Parse("a = 1\nb = 2\nc = 3\n");
  ConfigReader reader("f.toml", "[run]", root);
  std::string text;
  reader.Read("b", text);
  reader.Read("a", text);
  EXPECT_FALSE(reader.ok());
  EXPECT_THAT(std::string(reader.Finish().message()), StartsWith("f.toml:2: b "));
}

}  // namespace
}  // namespace quire
