#include "vmm/experiment/experiment.h"

#include <filesystem>
#include <fstream>
#include <ostream>
#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/experiment/measured_run.h"
#include "workloads/spec.h"

namespace quire {
namespace {

using Json = nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

RunLimits Limits(ByteCount host = ByteCount::GiB(4)) {
  return {.host_memory = host,
          .guest_address_space = ByteCount::GiB(512),
          .minimum_pool = ByteCount(),
          .check_workload = [](absl::string_view spec) { return ParseWorkload(spec).status(); }};
}

absl::StatusOr<Experiment> Parse(absl::string_view text, bool quick = false) {
  return ParseExperiment("dir/some.toml", text, quick, Limits());
}

Experiment Good(absl::string_view text, bool quick = false) {
  absl::StatusOr<Experiment> experiment = Parse(text, quick);
  EXPECT_TRUE(experiment.ok()) << experiment.status();
  return experiment.ok() ? *std::move(experiment) : Experiment{};
}

// The one that there is.
Variant Only(absl::string_view text) {
  Experiment experiment = Good(text);
  EXPECT_EQ(experiment.variants.size(), 1u);
  return experiment.variants.empty() ? Variant{} : std::move(experiment.variants[0]);
}

TEST(ExperimentTest, GuestsAreEnough) {
  const Experiment experiment = Good("[guests.a]\n");
  EXPECT_EQ(experiment.name, "some");
  EXPECT_EQ(experiment.repetitions, 5);
  EXPECT_EQ(experiment.runs(), 5u);
  ASSERT_EQ(experiment.variants.size(), 1u);
  const Variant& variant = experiment.variants[0];
  EXPECT_TRUE(variant.point.empty());
  EXPECT_EQ(variant.contender, Contender::kQuire);
  EXPECT_EQ(variant.options.accel, Accel::kAuto);
  EXPECT_EQ(variant.options.seed, 1u);
  EXPECT_EQ(variant.options.pool, ByteCount::MiB(128));
  EXPECT_FALSE(variant.options.control.has_value());
  EXPECT_FALSE(variant.options.json.has_value());
  ASSERT_EQ(variant.options.groups.size(), 1u);
  EXPECT_EQ(variant.options.groups[0].name, "a");
  EXPECT_EQ(variant.options.groups[0].guests, 1);
  EXPECT_EQ(variant.options.groups[0].memory, ByteCount::MiB(256));
  ASSERT_EQ(variant.options.schedule->phases.size(), 1u);
  EXPECT_EQ(variant.options.schedule->phases[0].duration, absl::Seconds(10));
  EXPECT_TRUE(variant.options.schedule->phases[0].measured);
}

TEST(ExperimentTest, ReadsEveryKeyOfTheFileAndOfRun) {
  const Experiment experiment = Good(R"(
name = "other"
asks = "Is it so?"
about = "Some\nlines."
repetitions = 3
seed = 40
[run]
engine = "kernel-best"
accel = "soft"
merge = "off"
huge = "advise"
pool = "96M"
swap = "ram"
seconds = 2.5
compressibility = 4.5
content = "/proc/self/exe"
[guests.a]
)");
  EXPECT_EQ(experiment.name, "other");
  EXPECT_EQ(experiment.asks, "Is it so?");
  EXPECT_EQ(experiment.about, "Some\nlines.");
  EXPECT_EQ(experiment.repetitions, 3);
  ASSERT_EQ(experiment.variants.size(), 1u);
  const RunOptions& options = experiment.variants[0].options;
  EXPECT_EQ(experiment.variants[0].contender, Contender::kKernelBest);
  EXPECT_EQ(options.engine, Engine::kKernel);
  EXPECT_EQ(options.seed, 40u);
  EXPECT_EQ(options.accel, Accel::kSoft);
  EXPECT_EQ(options.merge, Merge::kOff);
  EXPECT_EQ(options.huge, Huge::kAdvise);
  EXPECT_EQ(options.pool, ByteCount::MiB(96));
  EXPECT_TRUE(options.swap.empty());
  EXPECT_EQ(options.compressibility, 4.5);
  EXPECT_EQ(options.content, "/proc/self/exe");
  EXPECT_EQ(SecondsOf(experiment.variants[0]), 2.5);
  EXPECT_EQ(experiment.variants[0].settings["run"]["pool"], "96M");
  EXPECT_EQ(experiment.variants[0].settings["seed"], 40);
}

TEST(ExperimentTest, QemuRunsGuestsWithAKernelOnTheHostKernel) {
  const Experiment experiment = Good(R"(
[run]
accel = "soft"
kernel = "/proc/self/exe"
uri = "qemu:///session"
[guests.a]
cmdline = "console=ttyS0"
[matrix]
engine = ["qemu"]
)");
  ASSERT_EQ(experiment.variants.size(), 1u);
  const Variant& variant = experiment.variants[0];
  EXPECT_TRUE(variant.on_qemu());
  EXPECT_TRUE(variant.on_kernel());
  EXPECT_EQ(variant.uri, "qemu:///session");
  // Emulated: what Quire's own guests with a kernel cannot be.
  EXPECT_EQ(variant.options.accel, Accel::kSoft);
  EXPECT_EQ(Only("[run]\nengine = \"qemu\"\nkernel = \"/proc/self/exe\"\n[guests.a]\n").uri, "qemu:///system");
}

TEST(ExperimentTest, ReadsEveryKeyOfGuests) {
  const Variant variant = Only(R"(
[guests.busy]
count = 2
memory = "64M"
vcpus = 2
workload = "scan:writes=0.5"
load = 30
[guests.idle]
count = 3
memory = 33554432
load = 0
)");
  const std::vector<GuestGroup>& groups = variant.options.groups;
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups[0].name, "busy");
  EXPECT_EQ(groups[0].guests, 2);
  EXPECT_EQ(groups[0].memory, ByteCount::MiB(64));
  EXPECT_EQ(groups[0].vcpus, 2);
  EXPECT_EQ(groups[0].workload, "scan:writes=0.5");
  EXPECT_EQ(groups[0].idle_percent, 70);
  EXPECT_EQ(groups[1].memory, ByteCount::MiB(32));
  EXPECT_EQ(groups[1].idle_percent, 100);
  // Half of 2 x 64 and 3 x 32 MiB.
  EXPECT_EQ(variant.options.pool, ByteCount::MiB(112));
}

TEST(ExperimentTest, ThePoolIsWhatOvercommitSaysInWholeBlocks) {
  EXPECT_EQ(Only("[run]\novercommit = 1.0\n[guests.a]\nmemory = \"64M\"\n").options.pool, ByteCount::MiB(64));
  EXPECT_EQ(Only("[run]\novercommit = 0.5\n[guests.a]\nmemory = \"64M\"\n").options.pool, ByteCount::MiB(128));
  EXPECT_EQ(Only("[run]\novercommit = 3\n[guests.a]\nmemory = \"64M\"\n").options.pool, ByteCount::MiB(22));
}

TEST(ExperimentTest, ReadsEveryKeyOfPhases) {
  const Variant variant = Only(R"(
[run]
seconds = 4
[guests.a]
memory = "64M"
[guests.b]
memory = "64M"
[guests.c]
memory = "64M"
[[phases]]
name = "first"
seconds = 1.5
measured = false
[[phases]]
start = "b"
load = { a = 10, b = 0 }
[[phases]]
name = "last"
stop = ["a", "b"]
one_by_one = { guests = "c", every = 0.25 }
)");
  const std::vector<Phase>& phases = variant.options.schedule->phases;
  ASSERT_EQ(phases.size(), 3u);
  EXPECT_EQ(phases[0].name, "first");
  EXPECT_EQ(phases[0].duration, absl::Milliseconds(1500));
  EXPECT_FALSE(phases[0].measured);
  EXPECT_EQ(phases[1].duration, absl::Seconds(4));
  EXPECT_TRUE(phases[1].measured);
  EXPECT_THAT(phases[1].start, ElementsAre(1));
  EXPECT_EQ(phases[1].idle_percent.at(0), 90);
  EXPECT_EQ(phases[1].idle_percent.at(1), 100);
  EXPECT_THAT(phases[2].stop, ElementsAre(0, 1));
  ASSERT_TRUE(phases[2].one_by_one.has_value());
  EXPECT_EQ(phases[2].one_by_one->group, 2u);
  EXPECT_EQ(phases[2].one_by_one->every, absl::Milliseconds(250));
  EXPECT_FALSE(variant.options.schedule->StartsLater(0));
  EXPECT_TRUE(variant.options.schedule->StartsLater(1));
  EXPECT_TRUE(variant.options.schedule->StartsLater(2));
  // The last phase ends when its one guest has come.
  EXPECT_EQ(SecondsOf(variant), 5.75);
}

TEST(ExperimentTest, TheMatrixHasAllCombinationsTheLastAxisFastest) {
  const Experiment experiment = Good(R"(
[guests.a]
memory = "64M"
[matrix]
overcommit = [1.0, 2]
guests.a.load = [10, 100]
engine = ["quire", "kernel"]
)");
  ASSERT_EQ(experiment.axes.size(), 3u);
  EXPECT_EQ(experiment.axes[1].name, "guests.a.load");
  EXPECT_EQ(experiment.runs(), 40u);
  ASSERT_EQ(experiment.variants.size(), 8u);
  const auto point = [](double overcommit, int load, const char* engine) {
    return Point{{"overcommit", overcommit}, {"guests.a.load", load}, {"engine", engine}};
  };
  EXPECT_EQ(experiment.variants[0].point, point(1, 10, "quire"));
  EXPECT_EQ(experiment.variants[1].point, point(1, 10, "kernel"));
  EXPECT_EQ(experiment.variants[2].point, point(1, 100, "quire"));
  EXPECT_EQ(experiment.variants[7].point, point(2, 100, "kernel"));
  EXPECT_EQ(experiment.variants[7].options.pool, ByteCount::MiB(32));
  EXPECT_EQ(experiment.variants[6].options.groups[0].idle_percent, 0);
  EXPECT_EQ(experiment.variants[4].options.groups[0].idle_percent, 90);
  EXPECT_EQ(experiment.variants[7].contender, Contender::kKernel);
  EXPECT_EQ(experiment.variants[4].settings["guests"]["a"]["load"], 10);
}

TEST(ExperimentTest, QuickCountsOnlyIfItIsAskedFor) {
  const char* const text = R"(
repetitions = 4
[run]
seconds = 9
pool = "64M"
[guests.a]
count = 2
memory = "64M"
[matrix]
merge = ["on", "off"]
[quick]
repetitions = 1
run.seconds = 2
guests.a.memory = "32M"
[quick.matrix]
merge = ["on"]
)";
  EXPECT_EQ(Good(text).runs(), 8u);
  const Experiment quick = Good(text, true);
  EXPECT_TRUE(quick.quick);
  EXPECT_EQ(quick.runs(), 1u);
  EXPECT_EQ(quick.text, text);
  const RunOptions& options = quick.variants[0].options;
  EXPECT_EQ(options.groups[0].memory, ByteCount::MiB(32));
  EXPECT_EQ(options.groups[0].guests, 2);
  EXPECT_EQ(options.pool, ByteCount::MiB(64));
  EXPECT_EQ(SecondsOf(quick.variants[0]), 2);
}

struct BadFile {
  std::string text;  // what stands after it is in line 2 and further down
  int line;
  std::string says;
};
void PrintTo(const BadFile& file, std::ostream* out) { *out << file.text; }

class BadExperimentTest : public testing::TestWithParam<BadFile> {};

TEST_P(BadExperimentTest, IsRefusedWithFileLineAndWhatWouldBeRight) {
  const absl::StatusOr<Experiment> experiment = Parse("# a comment\n" + GetParam().text);
  ASSERT_FALSE(experiment.ok());
  EXPECT_TRUE(absl::IsInvalidArgument(experiment.status()));
  const std::string message(experiment.status().message());
  EXPECT_THAT(message, StartsWith(absl::StrCat("dir/some.toml:", GetParam().line, ": ")));
  EXPECT_THAT(message, HasSubstr(GetParam().says));
  EXPECT_FALSE(absl::EndsWith(message, "."));
  EXPECT_FALSE(absl::StrContains(message, "--")) << message;
  for (const char c : message) EXPECT_GE(static_cast<unsigned char>(c), ' ') << message;
}

constexpr char kGuests[] = "[guests.a]\nmemory = \"64M\"\n";  // lines 2 and 3

BadFile AfterGuests(const std::string& text, int line, const std::string& says) { return {kGuests + text, line, says}; }

INSTANTIATE_TEST_SUITE_P(
    UnknownKeys, BadExperimentTest,
    testing::Values(AfterGuests("lod = 3\n", 4, "\"lod\" is no key of [guests.a]: \"load\" may be meant"),
                    BadFile{"repetition = 3\n[guests.a]\n", 2, "\"repetitions\" may be meant"},
                    AfterGuests("[run]\nsecond = 3\n", 5, "\"second\" is no key of [run]: \"seconds\" may be meant"),
                    AfterGuests("[[phases]]\n\nstrat = \"a\"\n", 6, "\"strat\" is no key of [[phases]]"),
                    AfterGuests("[[phases]]\none_by_one = { guests = \"a\", evry = 1 }\n", 5, "\"every\" may be meant"),
                    AfterGuests("[matrix]\nengin = [\"quire\"]\n", 5,
                                "\"engin\" is no key of [run]: \"engine\" may be meant (with engin = \"quire\")"),
                    AfterGuests("[matrix]\nguests.a.lod = [1]\n", 5, "\"load\" may be meant (with guests.a.lod = 1)"),
                    AfterGuests("[matrix]\nguests.b.load = [1]\n", 5, "there is no [guests.b]"),
                    AfterGuests("[matrix]\nguests.a = [1]\n", 5, "write guests.NAME.KEY"),
                    AfterGuests("[matrix]\nphases.seconds = [1]\n", 5, "write a key of [run], or guests.NAME.KEY"),
                    AfterGuests("[matrix]\nrun.seconds = [1]\n", 5, "write a key of [run], or guests.NAME.KEY"),
                    AfterGuests("[[charts]]\nkind = \"memory\"\ntitel = \"x\"\n", 6, "\"title\" may be meant"),
                    AfterGuests("[quik]\n", 4, "\"quick\" may be meant")));

INSTANTIATE_TEST_SUITE_P(
    WrongTypes, BadExperimentTest,
    testing::Values(BadFile{"name = 3\n[guests.a]\n", 2, "text between quotes"},
                    BadFile{"repetitions = 0\n[guests.a]\n", 2, "from 1 to 1000, and 0 is none"},
                    BadFile{"repetitions = 2.5\n[guests.a]\n", 2, "a whole number"},
                    BadFile{"seed = -1\n[guests.a]\n", 2, "a whole number from 0"},
                    BadFile{"run = 3\n[guests.a]\n", 2, "write [run] and its keys below"},
                    BadFile{"quick = true\n[guests.a]\n", 2, "write [quick] and its keys below"},
                    BadFile{"matrix = []\n[guests.a]\n", 2, "write [matrix] and its keys below"},
                    BadFile{"charts = 1\n[guests.a]\n", 2, "write [[charts]] before the keys of each"},
                    AfterGuests("[charts]\n", 4, "write [[charts]] before the keys of each"),
                    AfterGuests("[phases]\n", 4, "write [[phases]] before the keys of each"),
                    BadFile{"phases = []\n[guests.a]\n", 2, "there are no phases: leave the key out"},
                    BadFile{"guests = []\n", 2, "write [guests.NAME]"}, BadFile{"", 1, "write [guests.NAME]"},
                    BadFile{"[guests]\n", 2, "write [guests.NAME]"},
                    BadFile{"[guests]\ncount = 3\n", 3, "count in [guests] is no group of guests"},
                    BadFile{"[guests.\"a b\"]\n", 2, "cannot be named \"a b\": write a name of letters"},
                    BadFile{"[guests.\"\"]\n", 2, "cannot be named \"\""},
                    BadFile{"name = \"a\\nb\"\n[guests.a]\n", 1, "cannot be named \"a\\nb\""},
                    AfterGuests("count = \"3\"\n", 4, "count in [guests.a] is to be a whole number from 1 to 1024"),
                    AfterGuests("count = 0\n", 4, "and 0 is none"),
                    AfterGuests("vcpus = 1000\n", 4, "and 1000 is none"),
                    AfterGuests("load = 101\n", 4, "from 0 to 100, and 101 is none"),
                    AfterGuests("load = -1\n", 4, "from 0 to 100, and -1 is none"),
                    AfterGuests("[run]\nengine = \"linux\"\n", 5, "\"quire\", \"kernel\", \"kernel-best\""),
                    AfterGuests("[run]\nengine = \"qemu\"\n", 5,
                                "write kernel = \"auto\" or kernel = \"FILE\" in [run]"),
                    AfterGuests("[matrix]\nmerge = [\"on\"]\nengine = [\"qemu\"]\n", 6, "boot a kernel"),
                    AfterGuests("[run]\nuri = 3\n", 5, "text between quotes"),
                    AfterGuests("[run]\nmerge = true\n", 5, "text between quotes"),
                    AfterGuests("[run]\nseconds = 0\n", 5, "a number from 0.1 to"),
                    AfterGuests("[run]\nseconds = inf\n", 5, "a number from 0.1 to"),
                    AfterGuests("[run]\novercommit = nan\n", 5, "a number from 0.1 to 1000"),
                    AfterGuests("[run]\ncompressibility = 0.5\n", 5, "a number from 1 to 100"),
                    AfterGuests("[[phases]]\nload = 3\n", 5, "a table"),
                    AfterGuests("[[phases]]\nload = { a = 200 }\n", 5, "from 0 to 100, and 200 is none"),
                    AfterGuests("[[phases]]\nmeasured = 1\n", 5, "true or false"), BadFile{"a = \n", 2, "no TOML"}));

INSTANTIATE_TEST_SUITE_P(
    ImpossibleSizes, BadExperimentTest,
    testing::Values(BadFile{"[guests.a]\nmemory = 0\n", 2, "leaves nothing"},
                    BadFile{"[guests.a]\nmemory = -4096\n", 3, "a size such as \"256M\""},
                    BadFile{"[guests.a]\nmemory = \"256MB\"\n", 3, "a size such as \"256M\""},
                    BadFile{"[guests.a]\nmemory = 5000000\n", 2, "not a multiple of the page size"},
                    BadFile{"[guests.a]\nmemory = \"64M\"\n[guests.b]\nmemory = \"12K\"\n", 4, "write 64K or more"},
                    BadFile{"[guests.a]\nmemory = \"100G\"\n", 2, "that this host has"},
                    BadFile{"[guests.a]\nmemory = \"15T\"\n", 2, "larger than a guest's address space"},
                    BadFile{"[run]\novercommit = 0.1\n[guests.a]\ncount = 1024\nmemory = 9223372036854771712\n", 4,
                            "larger than a guest's address space"},
                    AfterGuests("[run]\npool = 0\n", 5, "leaves nothing"),
                    AfterGuests("[run]\npool = \"4K\"\n", 5, "can run in"),
                    AfterGuests("[run]\npool = \"100G\"\n", 5, "that this host has"),
                    AfterGuests("[run]\nengine = \"kernel\"\npool = \"100G\"\n", 6, "that this host has"),
                    AfterGuests("[run]\n\novercommit = 1000\n", 4, "can run in"),
                    AfterGuests("[run]\npool = 5000000\n", 5, "not a multiple of the page size"),
                    AfterGuests("[run]\npool = \"64M\"\novercommit = 2\n", 6, "write only one of them"),
                    AfterGuests("[run]\npool = \"64M\"\n[matrix]\novercommit = [2]\n", 7, "write only one of them"),
                    BadFile{"[guests.a]\ncount = 1000\n[guests.b]\ncount = 1000\n", 1, "guests"}));

INSTANTIATE_TEST_SUITE_P(
    WhatDoesNotGoTogether, BadExperimentTest,
    testing::Values(
        AfterGuests("workload = \"sleep\"\n", 2, "sleep"),
        AfterGuests("cmdline = \"quiet\"\n", 4, "for guests with a kernel: leave it out, or write kernel in [run]"),
        AfterGuests("load = 5\n[run]\nkernel = \"/proc/self/exe\"\n", 4, "for guests without a kernel"),
        AfterGuests("[run]\ninitrd = \"x\"\n", 4, "write kernel = "),
        AfterGuests("[run]\nkernel = \"/nonexistent\"\n", 4, "cannot be read (no such file or directory)"),
        AfterGuests("[run]\nkernel = \"/proc/self/exe\"\naccel = \"soft\"\n", 5, "kernel needs KVM"),
        AfterGuests("[run]\ncontent = \"/nonexistent\"\n", 4, "cannot be read (no such file or directory)"),
        AfterGuests("[run]\nswap = \"tape\"\n", 4, "tape"),
        AfterGuests("[run]\nengine = \"kernel\"\nswap = \"file:/tmp/x:1G\"\n", 6, "leaves it to the host"),
        AfterGuests("[[phases]]\nstart = \"b\"\n", 4, "there are no guests named b: there are a"),
        AfterGuests("[[phases]]\nstop = [\"a\", \"b\"]\n", 4, "there are no guests named b: there are a"),
        AfterGuests("[[phases]]\nload = { b = 5 }\n", 5, "there are no guests named b: there are a"),
        AfterGuests("[[phases]]\none_by_one = { guests = \"b\" }\n", 5, "there are no guests named b: there are a"),
        AfterGuests("[[phases]]\none_by_one = { every = 1 }\n", 5, "there are no guests named"),
        AfterGuests("[[phases]]\nballoon = { a = \"1M\" }\n", 5, "only guests with a kernel have a balloon"),
        AfterGuests("[run]\nkernel = \"/proc/self/exe\"\n[[phases]]\nballoon = { a = \"64M\" }\n", 7,
                    "a balloon of 64 MiB would leave nothing of the 64 MiB"),
        AfterGuests("[run]\nkernel = \"/proc/self/exe\"\n[[phases]]\nload = { a = 5 }\n", 7, "leave load out"),
        AfterGuests("[[phases]]\nstart = \"a\"\n[[phases]]\nstart = \"a\"\n", 6, "a start twice"),
        AfterGuests("[[phases]]\nstart = [\"a\", \"a\"]\n", 4, "a start twice"),
        AfterGuests("[[phases]]\nstart = \"a\"\none_by_one = { guests = \"a\" }\n", 4, "a start twice"),
        AfterGuests("[[phases]]\nstop = \"a\"\n[[phases]]\nstart = \"a\"\n", 6, "a cannot start where they stop"),
        AfterGuests("[[phases]]\nstart = \"a\"\nstop = \"a\"\n", 4, "a cannot start where they stop"),
        AfterGuests("[[phases]]\nstop = \"a\"\n[[phases]]\nstop = \"a\"\n", 6, "a stop twice"),
        AfterGuests("[[phases]]\nstart = \"\\u001b\"\n", 4, "there are no guests named \\x1b")));

INSTANTIATE_TEST_SUITE_P(
    Matrices, BadExperimentTest,
    testing::Values(AfterGuests("[matrix]\nmerge = []\n", 5, "an array of the values"),
                    AfterGuests("[matrix]\nmerge = \"on\"\n", 5, "an array of the values"),
                    AfterGuests("[matrix]\npool = [\"64M\",\n[\"32M\"]]\n", 6, "numbers, words or sizes"),
                    AfterGuests("[matrix]\npool = [{ a = 1 }]\n", 5, "numbers, words or sizes"),
                    AfterGuests("[matrix]\nmerge = [\"on\",\n\"on\"]\n", 6, "merge takes the same value twice"),
                    AfterGuests("[matrix]\novercommit = [2, 2.0]\n", 5, "overcommit takes the same value twice"),
                    AfterGuests("[matrix]\npool = [67108864, \"67108864\"]\n", 5, "pool takes the same value twice"),
                    AfterGuests("[matrix]\nmerge = [\"on\", \"of\"]\n", 5, "\"on\", \"off\" (with merge = \"of\")"),
                    AfterGuests("[matrix]\nmerge.x = [1]\n", 5, "merge.x cannot be swept")));

TEST(ExperimentTest, AMatrixOfAMillionRunsIsRefusedBeforeItIsBuilt) {
  std::string values;
  for (int i = 1; i <= 100; ++i) absl::StrAppend(&values, i, i < 100 ? "," : "");
  const absl::StatusOr<Experiment> experiment =
      Parse(absl::StrCat("repetitions = 1000\n[guests.a]\n[guests.b]\n[guests.c]\n[matrix]\nguests.a.load = [", values,
                         "]\nguests.b.load = [", values, "]\nguests.c.load = [", values, "]\n"));
  EXPECT_EQ(experiment.status().message(),
            "dir/some.toml:6: the matrix has 1000000000 runs, repetitions included, and 10000 are the most: sweep less "
            "at a time");
}

TEST(ExperimentTest, AMatrixMayHaveAsManyRunsAsThereMayBe) {
  std::string values;
  for (int i = 1; i <= 100; ++i) absl::StrAppend(&values, i, i < 100 ? "," : "");
  EXPECT_EQ(Good(absl::StrCat("repetitions = 100\n[guests.a]\n[matrix]\nguests.a.load = [", values, "]\n")).runs(),
            kMostRuns);
}

TEST(ExperimentTest, AKernelGetsACommandLineAndABalloon) {
  const Variant variant = Only(R"(
[run]
kernel = "/proc/self/exe"
[guests.a]
memory = "64M"
cmdline = "quiet"
[[phases]]
balloon = { a = "32M" }
)");
  ASSERT_TRUE(variant.options.pc.has_value());
  EXPECT_EQ(variant.options.groups[0].command_line, "quiet");
  EXPECT_EQ(variant.options.schedule->phases[0].balloon.at(0), ByteCount::MiB(32));
}

// How many of them fit is the question.
TEST(ExperimentTest, ThePoolNeedNotHoldAllThatComeOneAfterAnother) {
  const char* const text = "[run]\npool = \"64M\"\n[guests.a]\ncount = 1000\nmemory = \"8M\"\n";
  EXPECT_THAT(std::string(Parse(text).status().message()), HasSubstr("can run in"));
  EXPECT_EQ(Only(absl::StrCat(text, "[[phases]]\none_by_one = { guests = \"a\" }\n")).options.machines(), 1000);
}

TEST(ExperimentTest, AFileThatCannotBeReadIsNamed) {
  EXPECT_EQ(
      ReadExperiment("/nonexistent.toml", false, Limits()).status().message(),
      "the experiment /nonexistent.toml cannot be read (no such file or directory): name a file that can be read");
  EXPECT_THAT(std::string(ReadExperiment("/", false, Limits()).status().message()), HasSubstr("is not a regular file"));
}

// Whether each really takes less than ten minutes is for the machine to say; what is planned is known.
TEST(ExperimentTest, TheOnesThatComeWithTheProjectAreReadAndQuickOnesArePlannedForLessThanTenMinutes) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator("experiments")) {
    if (entry.path().extension() != ".toml") continue;
    SCOPED_TRACE(entry.path());
    ++files;
    for (const bool quick : {false, true}) {
      // Not every host has a kernel in /boot.
      std::ostringstream text;
      text << std::ifstream(entry.path()).rdbuf();
      const absl::StatusOr<Experiment> experiment = ParseExperiment(
          entry.path(), absl::StrReplaceAll(text.str(), {{"\"auto\"", "\"/proc/self/exe\""}}), quick, Limits());
      ASSERT_TRUE(experiment.ok()) << experiment.status();
      EXPECT_GE(experiment->repetitions, 2);
      EXPECT_FALSE(experiment->asks.empty());
      EXPECT_FALSE(experiment->charts.empty());
      // At most: a phase in which guests come one by one may end early.
      absl::Duration planned;
      for (const Variant& variant : experiment->variants) {
        for (const Phase& phase : variant.options.schedule->phases) planned += phase.duration * experiment->repetitions;
      }
      EXPECT_LT(planned, quick ? absl::Minutes(10) : absl::Hours(24));
    }
  }
  EXPECT_GE(files, 4);
}

}  // namespace
}  // namespace quire
