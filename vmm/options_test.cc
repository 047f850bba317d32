#include "vmm/options.h"

#include <set>
#include <string>
#include <vector>

#include "absl/flags/reflection.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/huge/compaction_mode.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

RunLimits Limits() {
  return {.host_memory = ByteCount::GiB(16),
          .guest_address_space = ByteCount::GiB(32),
          .minimum_pool = ByteCount::MiB(16),
          .check_workload = [](absl::string_view spec) {
            return spec == "zipf" ? absl::OkStatus() : absl::InvalidArgumentError("no such workload");
          }};
}

// Parses, assembles and validates, as `quire run` does.
absl::StatusOr<RunOptions> Options(const std::vector<absl::string_view>& args) {
  const absl::FlagSaver saver;
  if (absl::Status parsed = ParseFlags("quire run", args, RunFlags()); !parsed.ok()) return parsed;
  absl::StatusOr<RunOptions> options = RunOptionsFromFlags();
  if (!options.ok()) return options;
  if (absl::Status valid = Validate(*options, Limits()); !valid.ok()) return valid;
  return options;
}

std::string Error(const std::vector<absl::string_view>& args) {
  const absl::Status status = Options(args).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST(OptionsTest, TheDefaultIsFourGuestsInHalfOfTheirMemoryForTenSeconds) {
  const absl::StatusOr<RunOptions> options = Options({});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->guests, 4);
  EXPECT_EQ(options->memory, ByteCount::MiB(256));
  EXPECT_EQ(options->pool, ByteCount::MiB(512));
  EXPECT_EQ(options->vcpus, 1);
  EXPECT_EQ(options->accel, Accel::kAuto);
  EXPECT_EQ(options->engine, Engine::kQuire);
  EXPECT_EQ(options->huge, Huge::kAlways);
  EXPECT_EQ(options->merge, Merge::kOn);
  EXPECT_EQ(options->workload, "zipf");
  EXPECT_EQ(options->duration, absl::Seconds(10));
  EXPECT_EQ(options->seed, 1u);
  EXPECT_EQ(options->json, std::nullopt);
}

TEST(OptionsTest, FlagsAreTaken) {
  const absl::StatusOr<RunOptions> options = Options(
      {"--guests=2", "--memory=1.5G", "--pool=1G", "--vcpus=3", "--accel=kvm", "--engine=kernel", "--huge=never",
       "--defrag=fault", "--huge_stream=3", "--huge_faults=20", "--huge_window=200", "--reclaim_threads=3",
       "--merge=off", "--payload=/p", "--compressibility=2.5", "--seed=7", "--seconds=0.5", "--json=-"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->guests, 2);
  EXPECT_EQ(options->memory, ByteCount::MiB(1536));
  EXPECT_EQ(options->pool, ByteCount::GiB(1));
  EXPECT_EQ(options->vcpus, 3);
  EXPECT_EQ(options->accel, Accel::kKvm);
  EXPECT_EQ(options->engine, Engine::kKernel);
  EXPECT_EQ(options->huge, Huge::kNever);
  EXPECT_EQ(options->huge_policy.stream, 3);
  EXPECT_EQ(options->huge_policy.faults, 20);
  EXPECT_EQ(options->huge_policy.window, 200);
  EXPECT_EQ(options->reclaim_threads, 3);
  EXPECT_EQ(options->merge, Merge::kOff);
  EXPECT_EQ(options->defrag, CompactionMode::kFault);
  EXPECT_EQ(options->payload, "/p");
  EXPECT_EQ(options->compressibility, 2.5);
  EXPECT_EQ(options->seed, 7u);
  EXPECT_EQ(options->duration, absl::Milliseconds(500));
  EXPECT_EQ(options->json, "-");
}

TEST(OptionsTest, SwapIsParsedAndChecked) {
  const absl::StatusOr<RunOptions> options = Options({"--swap=file:/a:4G,nbd:nbd://h/", "--swap_retry=1.5"});
  ASSERT_TRUE(options.ok()) << options.status();
  ASSERT_EQ(options->swap.size(), 2u);
  EXPECT_EQ(options->swap[0].size, ByteCount::GiB(4));
  EXPECT_EQ(options->swap_retry, absl::Milliseconds(1500));
  EXPECT_TRUE(Options({})->swap.empty());
  EXPECT_THAT(Error({"--swap=/a"}), HasSubstr("write file:PATH"));
  EXPECT_THAT(Error({"--swap=file:/a", "--engine=kernel"}), HasSubstr("give only one"));
  EXPECT_THAT(Error({"--swap_retry=-1"}), HasSubstr("--swap_retry=-1 is out of range"));
}

TEST(OptionsTest, GuestsMayHaveLimits) {
  const absl::StatusOr<RunOptions> options =
      Options({"--guest_pool_limit=4M", "--guest_swap_limit=1G", "--overcommit=strict"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->guest_pool_limit, ByteCount::MiB(4));
  EXPECT_EQ(options->guest_swap_limit, ByteCount::GiB(1));
  EXPECT_EQ(options->overcommit, Overcommit::kStrict);
  EXPECT_EQ(Options({})->guest_pool_limit, std::nullopt);
  EXPECT_EQ(Options({})->guest_swap_limit, std::nullopt);
  EXPECT_EQ(Options({})->overcommit, Overcommit::kAllow);
  EXPECT_EQ(Error({"--guest_pool_limit=4095K"}),
            "--guest_pool_limit=4095K is less than a guest can run in: write 4M or more");
  EXPECT_THAT(Error({"--guest_pool_limit=4194305"}), HasSubstr("not a multiple of the page size"));
  EXPECT_THAT(Error({"--guest_swap_limit=5000"}), HasSubstr("not a multiple of the page size"));
  EXPECT_THAT(Error({"--guest_swap_limit=0"}), HasSubstr("or leave it out"));
  EXPECT_EQ(Error({"--overcommit=never"}), "--overcommit=never is not understood: write allow or strict");
  for (const char* flag : {"--guest_pool_limit=4M", "--guest_swap_limit=4M", "--overcommit=strict"}) {
    EXPECT_THAT(Error({flag, "--engine=kernel"}), HasSubstr("give only one of them")) << flag;
  }
}

TEST(OptionsTest, StrictRefusesWhatCouldNotBeHonoured) {
  RunOptions options;  // four guests of 256 MiB
  const auto check = [&](uint64_t pool, uint64_t swap) {
    return std::string(
        CheckOvercommit(options, {.pool = ByteCount::MiB(pool), .swap = ByteCount::MiB(swap)}).message());
  };
  EXPECT_EQ(check(100, 0), "") << "allowed";
  options.overcommit = Overcommit::kStrict;
  EXPECT_EQ(check(1024, 0), "");
  EXPECT_EQ(check(500, 524), "");
  EXPECT_EQ(check(500, 500),
            "--overcommit=strict cannot be honoured: 4 guests of 256 MiB may want 1 GiB at once, and there are 500 MiB "
            "of the pool for them and 500 MiB of swap, 24 MiB too little: raise --pool, --swap or both, or lower "
            "--guests or --memory");
  options.guest_pool_limit = ByteCount::MiB(64);
  EXPECT_THAT(check(1024, 0), HasSubstr("1 GiB of the pool for them (256 MiB by --guest_pool_limit)"));
  EXPECT_EQ(check(1024, 768), "");
  options.guest_swap_limit = ByteCount::MiB(100);
  EXPECT_THAT(check(1024, 768), HasSubstr("768 MiB of swap (400 MiB by --guest_swap_limit), 368 MiB too little"));
  options.guest_pool_limit = options.guest_swap_limit = ByteCount::GiB(1 << 20);
  EXPECT_EQ(check(1024, 0), "") << "limits that are no limits";
}

TEST(OptionsTest, OvercommitIsSaidOnce) {
  RunOptions options;
  ASSERT_EQ(Notes(options).size(), 1u);
  EXPECT_THAT(Notes(options)[0], HasSubstr("The guests' 1 GiB need not fit into the pool"));
  options.pool = options.all_memory();
  EXPECT_TRUE(Notes(options).empty());
  options.pool = ByteCount::MiB(512);
  options.overcommit = Overcommit::kStrict;
  EXPECT_TRUE(Notes(options).empty());
}

TEST(OptionsTest, WholeBlocksAlwaysOnAdviceOrNever) {
  EXPECT_EQ(Options({"--huge=always"})->huge, Huge::kAlways);
  EXPECT_EQ(Options({"--huge=advise"})->huge, Huge::kAdvise);
  EXPECT_EQ(Options({"--huge=never"})->huge, Huge::kNever);
  for (const Huge huge : {Huge::kAlways, Huge::kAdvise, Huge::kNever}) {
    EXPECT_EQ(Options({absl::StrCat("--huge=", Name(huge))})->huge, huge);
  }
}

TEST(OptionsTest, TheDefaultPoolFollowsTheGuestsAndIsWholePages) {
  EXPECT_EQ(Options({"--guests=3", "--memory=1G"})->pool, ByteCount::MiB(1536));
  // Half of 8193 pages.
  EXPECT_EQ(Options({"--guests=1", "--memory=32772K"})->pool, PageCount(4097).bytes());
}

TEST(OptionsTest, CountsOutOfRange) {
  EXPECT_EQ(Options({"--clones=20", "--memory=10M"})->pool, ByteCount::MiB(30))
      << "the template's, and a tenth of each";
  EXPECT_EQ(Options({"--clones=20"})->guests, 1);
  EXPECT_EQ(Error({"--clones=-1"}), "--clones=-1 is out of range: write a number from 1 to 1024, such as 100");
  EXPECT_EQ(Error({"--clones=2", "--guests=3"}),
            "--clones are of one guest, and --guests=3 asks for more: leave --guests out");
  EXPECT_EQ(
      Error({"--clones=2", "--engine=kernel"}),
      "--clones share memory that Quire manages, and --engine=kernel leaves it to the host: give only one of them");
  EXPECT_EQ(Error({"--guests=0"}), "--guests=0 is out of range: write a number from 1 to 1024, such as 4");
  EXPECT_EQ(Error({"--guests=-1"}), "--guests=-1 is out of range: write a number from 1 to 1024, such as 4");
  EXPECT_EQ(Error({"--guests=1025"}), "--guests=1025 is out of range: write a number from 1 to 1024, such as 4");
  EXPECT_EQ(Error({"--vcpus=65"}), "--vcpus=65 is out of range: write a number from 1 to 64, such as 1");
  EXPECT_EQ(Error({"--guests=99999999999"}), "--guests=99999999999 is not understood: write a whole number such as 4");
}

TEST(OptionsTest, BadMemory) {
  EXPECT_EQ(Error({"--memory=0"}), "--memory=0 leaves nothing to run in: write a size such as 256M");
  EXPECT_EQ(Error({"--memory=12K"}), "--memory=12K is less than a guest can run in: write 64K or more");
  EXPECT_TRUE(Options({"--memory=64K", "--pool=16M"}).ok());
  EXPECT_THAT(Error({"--memory=12K", "--kernel=/k"}),
              StartsWith("--memory=12K is not what a PC can have: write 2M to"));
  EXPECT_EQ(Error({"--memory=10000000"}),
            "--memory=10000000 is not a multiple of the page size, 4096 bytes: the nearest size above is 9768K");
  EXPECT_EQ(Error({"--memory=64G"}), "--memory=64G is larger than a guest's address space: write 32G or less");
  EXPECT_EQ(Error({"--memory=20G"}),
            "--memory=20G for each guest is more than the 16 GiB that this host has: write less, or run more guests of "
            "less memory each");
  EXPECT_EQ(Error({"--memory=big"}), "--memory=big is not understood: write a size such as 256M, 1.5G or 268435456");
  EXPECT_EQ(Error({"--memory=-4096"}),
            "--memory=-4096 is not understood: write a size such as 256M, 1.5G or 268435456");
}

TEST(OptionsTest, AMultipleThatWouldOverflowIsStillTooLarge) {
  EXPECT_EQ(Error({"--guests=1024", "--memory=18446744073709547520"}),
            "--memory=18014398509481980K is larger than a guest's address space: write 32G or less");
}

TEST(OptionsTest, BadPool) {
  EXPECT_EQ(Error({"--pool=0"}), "--pool=0 leaves nothing to run in: write a size such as 512M");
  EXPECT_EQ(Error({"--pool=17825793"}),
            "--pool=17825793 is not a multiple of the page size, 4096 bytes: the nearest size above is 17412K");
  EXPECT_EQ(Error({"--pool=32G"}),
            "--pool=32G is more than the 16 GiB that this host has: write less, or ask for fewer or smaller guests");
  EXPECT_EQ(Error({"--pool=1M"}), "--pool=1M is less than 4 guests can run in: write 16M or more");
  EXPECT_EQ(Error({"--guests=8", "--memory=8G"}),
            "--pool=32G is more than the 16 GiB that this host has: write less, or ask for fewer or smaller guests");
}

TEST(OptionsTest, BadNumbers) {
  EXPECT_EQ(Error({"--seconds=0"}),
            "--seconds=0 is out of range: write a number above 0 and up to 31,536,000 (a year), such as 10");
  // The last is what stands for no limit of time.
  for (const char* seconds : {"-1", "inf", "-inf", "nan", "1e+09", "3.16224e+09"}) {
    EXPECT_THAT(Error({absl::StrCat("--seconds=", seconds)}),
                StartsWith(absl::StrCat("--seconds=", seconds, " is out of range: write a number above 0")));
  }
  EXPECT_EQ(Error({"--swap_retry=nan"}),
            "--swap_retry=nan is out of range: write a number of seconds from 0 to 31,536,000 (a year), such as 60");
  EXPECT_EQ(Error({"--compressibility=0.5"}),
            "--compressibility=0.5 is out of range: write a ratio from 1 (incompressible) to 100, such as 3");
  EXPECT_TRUE(absl::StrContains(Error({"--compressibility=nan"}), "is out of range"));
  EXPECT_EQ(Error({"--seed=-1"}), "--seed=-1 is not understood: write a whole number such as 1");
}

TEST(OptionsTest, BadNames) {
  EXPECT_EQ(Error({"--accel=tcg"}), "--accel=tcg is not understood: write auto, kvm or soft");
  EXPECT_EQ(Error({"--engine=linux"}), "--engine=linux is not understood: write quire or kernel");
  EXPECT_EQ(Error({"--huge=yes"}), "--huge=yes is not understood: write always, advise or never");
  EXPECT_EQ(Error({"--defrag=on"}), "--defrag=on is not understood: write fault, background or off");
  EXPECT_EQ(Error({"--workload=zpif"}), "no such workload");
}

TEST(OptionsTest, FlagsThatExcludeEachOther) {
  EXPECT_EQ(Error({"--payload=/p", "--workload=zipf"}),
            "--workload and --payload both say what the guests run: give only one of them");
  EXPECT_TRUE(absl::StrContains(Error({"--payload=/p", "--accel=soft"}), "--payload needs KVM"));
  EXPECT_TRUE(absl::StrContains(Error({"--payload=/p", "--content=/c"}), "give only one of them"));
}

TEST(OptionsTest, UnknownFlagsSuggestTheNearest) {
  EXPECT_EQ(Error({"--guest=3"}), "--guest is not a flag of quire run: did you mean --guests?");
  EXPECT_EQ(Error({"--time=3"}), "--time is not a flag of quire run: `quire run --help` lists them");
}

TEST(OptionsTest, EveryMessageIsOneSentenceWithoutItsFullStop) {
  for (const char* arg : {"--memory=0", "--memory=20G", "--pool=1M", "--seconds=0", "--accel=x", "--nothing", "word"}) {
    const std::string error = Error({arg});
    EXPECT_FALSE(absl::StrContains(error, ". ")) << error;
    EXPECT_FALSE(absl::StrContains(error, "\n")) << error;
    EXPECT_FALSE(absl::EndsWith(error, ".")) << error;
  }
}

TEST(OptionsTest, TheHelpTableHasEveryFlagOfTheFilesOnce) {
  std::set<std::string> listed;
  for (const FlagGroup& group : RunFlags()) {
    for (const FlagHelp& flag : group.flags) EXPECT_TRUE(listed.insert(flag.name).second) << flag.name;
  }
  std::set<std::string> defined;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    const bool of_run =
        absl::EndsWith(flag->Filename(), "vmm/options.cc") || absl::EndsWith(flag->Filename(), "vmm/pc_options.cc");
    if (of_run) defined.insert(std::string(name));
  }
  EXPECT_EQ(listed, defined);
}

TEST(OptionsTest, NamesParseBack) {
  for (Accel accel : {Accel::kAuto, Accel::kKvm, Accel::kSoft}) {
    Accel parsed = Accel::kAuto;
    std::string error;
    EXPECT_TRUE(AbslParseFlag(Name(accel), &parsed, &error));
    EXPECT_EQ(parsed, accel);
  }
  for (Engine engine : {Engine::kQuire, Engine::kKernel}) {
    Engine parsed = Engine::kQuire;
    std::string error;
    EXPECT_TRUE(AbslParseFlag(Name(engine), &parsed, &error));
    EXPECT_EQ(parsed, engine);
  }
}

TEST(OptionsTest, TheKernelEngineIsToldApart) {
  RunOptions options;
  options.engine = Engine::kKernel;
  ASSERT_EQ(Notes(options).size(), 1u);
  EXPECT_THAT(Notes(options)[0], HasSubstr("--engine=kernel"));
}

}  // namespace
}  // namespace quire
