#include "vmm/libvirt/domain/domain_run.h"

#include <set>
#include <string>
#include <vector>

#include "absl/flags/reflection.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/frames/budget.h"
#include "vmm/flags.h"
#include "vmm/libvirt/domain/domain_guest.h"
#include "vmm/options.h"
#include "vmm/pc_options.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

class DomainRunTest : public ::testing::Test {
 protected:
  absl::StatusOr<RunOptions> With(const std::vector<absl::string_view>& args) {
    std::set<std::string> given;
    EXPECT_EQ(ParseFlags("quire run", args, RunFlags(), &given), absl::OkStatus());
    return RunOptionsOf(guest_, "<domain/>", given);
  }
  std::string Error(const std::vector<absl::string_view>& args) {
    const absl::Status status = With(args).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  }

  DomainGuest guest_{.name = "web",
                     .memory = ByteCount::GiB(2),
                     .vcpus = 3,
                     .pc = {.kernel = "/k", .balloon = ByteCount::MiB(512), .name = "web"},
                     .pool_limit = ByteCount::MiB(600),
                     .swap_limit = ByteCount::MiB(700)};
  absl::FlagSaver saver_;
};

TEST_F(DomainRunTest, IsOneGuestThatIsAsTheDomainSays) {
  const RunOptions options = With({}).value();
  EXPECT_EQ(options.guests, 1);
  EXPECT_EQ(options.memory, ByteCount::GiB(2));
  EXPECT_EQ(options.pool, ByteCount::GiB(1)) << "half of it, as for other guests";
  EXPECT_EQ(options.vcpus, 3);
  EXPECT_EQ(options.pc->kernel, "/k");
  EXPECT_EQ(options.pc->name, "web");
  EXPECT_EQ(options.pc->domain_xml, "<domain/>");
  EXPECT_EQ(options.pc->balloon, ByteCount::MiB(512));
  EXPECT_EQ(options.guest_pool_limit, ByteCount::MiB(600));
  EXPECT_EQ(options.guest_swap_limit, ByteCount::MiB(700));
  EXPECT_EQ(options.duration, RunOptions::kNoTimeLimit);
  EXPECT_EQ(options.merge, Merge::kOn);
}

TEST_F(DomainRunTest, FlagsSayHowItIsRun) {
  const RunOptions options =
      With({"--pool=1536M", "--seconds=5", "--balloon=1M", "--console=lines", "--guest-pool-limit=64M", "--huge=never"})
          .value();
  EXPECT_EQ(options.pool, ByteCount::MiB(1536));
  EXPECT_EQ(options.duration, absl::Seconds(5));
  EXPECT_EQ(options.pc->balloon, ByteCount::MiB(1));
  EXPECT_EQ(options.pc->console->kind, ConsoleTarget::Kind::kLines);
  EXPECT_EQ(options.guest_pool_limit, ByteCount::MiB(64));
  EXPECT_EQ(options.guest_swap_limit, ByteCount::MiB(700));
  EXPECT_EQ(options.huge, Huge::kNever);
}

TEST_F(DomainRunTest, FlagsThatSayWhatItIsAreRefused) {
  for (const char* flag : {"--guests=1", "--clones=1", "--memory=256M", "--vcpus=1", "--kernel=/k", "--initrd=/i",
                           "--cmdline=x", "--workload=zipf", "--payload=/p", "--disk=/d", "--content=/c"}) {
    const absl::FlagSaver saver;
    EXPECT_THAT(Error({flag}), HasSubstr("change the domain, or leave --")) << flag;
  }
}

TEST_F(DomainRunTest, WithoutABalloonNoneIsSet) {
  guest_.pc.balloon_offer.exists = false;
  EXPECT_THAT(Error({"--balloon=1M"}), HasSubstr("<memballoon model='none'/>"));
}

TEST_F(DomainRunTest, PagesThatAreNotToBeSharedAreNot) {
  guest_.shares_pages = false;
  EXPECT_EQ(With({})->merge, Merge::kOff);
  EXPECT_THAT(Error({"--merge=on"}), HasSubstr("contradicts the domain's <nosharepages/>"));
}

TEST_F(DomainRunTest, HugePagesThatAreWantedAreNotTakenAway) {
  guest_.huge_pages = true;
  EXPECT_EQ(With({})->huge, Huge::kAlways);
  EXPECT_THAT(Error({"--huge=advise"}), HasSubstr("contradicts the domain's <hugepages/>"));
}

TEST_F(DomainRunTest, LockedMemoryHasAPoolThatHoldsItAll) {
  guest_.locked = true;
  EXPECT_EQ(With({})->pool, PoolForLocked(ByteCount::GiB(2)));
  EXPECT_EQ(With({"--pool=4G"})->pool, ByteCount::GiB(4));
  EXPECT_THAT(Error({"--pool=2G"}), HasSubstr("<locked/> says: write 2176M or more"));
  const absl::FlagSaver saver;
  EXPECT_THAT(Error({"--pool=4G", "--swap=file:/tmp"}), HasSubstr("--swap contradicts the domain's <locked/>"));
}

TEST_F(DomainRunTest, APoolForLockedMemoryIsNeverReclaimed) {
  for (const ByteCount memory : {ByteCount::MiB(2), ByteCount::MiB(100), ByteCount::GiB(1), ByteCount::GiB(64)}) {
    const PageCount pool = PageCount::Ceil(PoolForLocked(memory));
    EXPECT_GT(pool, PageCount::Ceil(memory) + Watermarks::ForLimit(pool).high + PageCount::Ceil(ByteCount::MiB(16)))
        << memory.in_mib();
  }
}

}  // namespace
}  // namespace quire
