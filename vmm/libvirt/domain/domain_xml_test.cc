// What is written is held against libvirt's own schema by xmllint, where both are installed.
#include "vmm/libvirt/domain/domain_xml.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/libvirt/domain/document.h"
#include "vmm/libvirt/domain/domain_guest.h"
#include "vmm/pc_options.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kDirectory[] = "vmm/libvirt/domain/testdata";
constexpr char kSchema[] = "/usr/share/libvirt/schemas/domain.rng";
constexpr char kXmllint[] = "/usr/bin/xmllint";

std::string Contents(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

bool HasSchema() { return access(kSchema, R_OK) == 0 && access(kXmllint, X_OK) == 0; }

// What xmllint has against it, empty if nothing.
std::string Complaints(const std::string& xml) {
  const std::string file = absl::StrCat(testing::TempDir(), "/domain_xml_test_", getpid(), ".xml");
  std::ofstream(file) << xml;
  const std::string said = file + ".said";
  const int status =
      std::system(absl::StrCat(kXmllint, " --noout --relaxng ", kSchema, " ", file, " >", said, " 2>&1").c_str());
  const std::string complaints = WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "" : Contents(said);
  unlink(file.c_str());
  unlink(said.c_str());
  return complaints;
}

class DomainXmlTest : public ::testing::Test {
 protected:
  // A guest that was started by a description, and is as it says.
  RunningGuest GuestOf(const std::string& xml) {
    const DomainReading reading = ReadDomain(DomainDocument::Parse("a.xml", xml).value()).value();
    pc_ = reading.guest.pc;
    pc_.domain_xml = xml;
    return {.name = reading.guest.name,
            .memory = reading.guest.memory,
            .balloon = reading.guest.pc.balloon,
            .vcpus = reading.guest.vcpus,
            .pool_limit = reading.guest.pool_limit,
            .swap_limit = reading.guest.swap_limit,
            .pc = &pc_};
  }
  static DomainReading ReadBack(const std::string& xml) {
    return ReadDomain(DomainDocument::Parse("a.xml", xml).value()).value();
  }

  PcOptions pc_{.kernel = ""};
};

constexpr char kDescription[] =
    "<domain type='kvm'>\n"
    "  <name>d</name>\n"
    "  <memory unit='GiB'>1</memory>\n"
    "  <os>\n"
    "    <type>hvm</type>\n"
    "    <kernel>/k</kernel>\n"
    "  </os>\n"
    "  <later xmlns='urn:later'>this stays</later>\n"
    "</domain>\n";

TEST_F(DomainXmlTest, WhatIsAsItWasDescribedStaysByteForByteButForItsId) {
  RunningGuest guest = GuestOf(kDescription);
  guest.number = 2;
  std::string expected = kDescription;
  expected.replace(0, 18, "<domain type='kvm' id='3'");
  EXPECT_EQ(DomainXml(guest).value(), expected);
}

TEST_F(DomainXmlTest, FiguresThatHaveChangedAreInPlace) {
  RunningGuest guest = GuestOf(kDescription);
  guest.balloon = ByteCount::MiB(512);
  guest.pool_limit = ByteCount::MiB(256);
  guest.swap_limit = ByteCount::MiB(64);
  const std::string xml = DomainXml(guest).value();
  EXPECT_THAT(xml, HasSubstr("  <memory unit='GiB'>1</memory>\n"
                             "  <currentMemory unit='KiB'>524288</currentMemory>\n"
                             "  <memtune><hard_limit unit='KiB'>262144</hard_limit>"
                             "<swap_hard_limit unit='KiB'>327680</swap_hard_limit></memtune>\n"
                             "  <os>"));
  EXPECT_THAT(xml, HasSubstr("<later xmlns='urn:later'>this stays</later>"));
  const DomainGuest again = ReadBack(xml).guest;
  EXPECT_EQ(again.pc.balloon, ByteCount::MiB(512));
  EXPECT_EQ(again.pool_limit, ByteCount::MiB(256));
  EXPECT_EQ(again.swap_limit, ByteCount::MiB(64));
}

TEST_F(DomainXmlTest, ALimitThatHasGoneIsGone) {
  RunningGuest guest = GuestOf(Contents(absl::StrCat(kDirectory, "/memtune_balloon.xml")));
  guest.pool_limit = guest.swap_limit = std::nullopt;
  const std::string xml = DomainXml(guest).value();
  EXPECT_THAT(xml, Not(HasSubstr("hard_limit")));
  EXPECT_THAT(xml, HasSubstr("<soft_limit unit='MiB'>2048</soft_limit>"));
}

TEST_F(DomainXmlTest, EveryFoundDomainComesBackWithItsMeaning) {
  for (const auto& entry : std::filesystem::directory_iterator(kDirectory)) {
    if (entry.path().extension() != ".xml") continue;
    const std::string xml = DomainXml(GuestOf(Contents(entry.path()))).value();
    EXPECT_EQ(DomainXml(GuestOf(xml)).value(), xml) << entry.path();
    EXPECT_THAT(xml, HasSubstr(" id='1'"));
  }
}

RunningGuest Guest(const PcOptions* pc) {
  return {.number = 1,
          .name = "guest-1",
          .memory = ByteCount::MiB(256),
          .balloon = ByteCount::MiB(64),
          .vcpus = 2,
          .pool_limit = ByteCount::MiB(128),
          .swap_limit = ByteCount::MiB(32),
          .shares_pages = false,
          .pc = pc,
          .command_line = "console=ttyS0 \"a\" <b>"};
}

PcOptions SomePc() {
  return {.kernel = "vmlinuz",
          .initrd = "/boot/../initrd.img",
          .disks = {{.path = "/a.img", .read_only = true}, {.path = "b & c.img"}},
          .balloon_offer = {.deflates_on_oom = true, .reports_free_pages = false},
          .statistics_period = absl::Seconds(7),
          .console = ConsoleTarget{.kind = ConsoleTarget::Kind::kFile, .path = "/log-%d"}};
}

TEST_F(DomainXmlTest, AGuestThatWasNotDescribedIsDescribedByItsOptions) {
  const PcOptions pc = SomePc();
  const std::string xml = DomainXml(Guest(&pc)).value();
  EXPECT_THAT(xml, ::testing::StartsWith("<domain type='kvm' id='2'>\n  <name>guest-1</name>\n  <memory unit='KiB'>"));
  const DomainReading reading = ReadBack(xml);
  EXPECT_FALSE(reading.refused());
  const DomainGuest& guest = reading.guest;
  EXPECT_EQ(guest.memory, ByteCount::MiB(256));
  EXPECT_EQ(guest.pc.balloon, ByteCount::MiB(64));
  EXPECT_EQ(guest.pool_limit, ByteCount::MiB(128));
  EXPECT_EQ(guest.swap_limit, ByteCount::MiB(32));
  EXPECT_FALSE(guest.shares_pages);
  EXPECT_EQ(guest.vcpus, 2);
  EXPECT_EQ(guest.pc.kernel, std::filesystem::current_path().string() + "/vmlinuz");
  EXPECT_EQ(guest.pc.initrd, "/initrd.img");
  EXPECT_EQ(guest.pc.command_line, "console=ttyS0 \"a\" <b>");
  ASSERT_EQ(guest.pc.disks.size(), 2u);
  EXPECT_TRUE(guest.pc.disks[0].read_only);
  EXPECT_EQ(guest.pc.disks[1].path, std::filesystem::current_path().string() + "/b & c.img");
  EXPECT_EQ(guest.pc.balloon_offer, pc.balloon_offer);
  EXPECT_EQ(guest.pc.statistics_period, absl::Seconds(7));
  EXPECT_EQ(guest.pc.console->path, "/log-1");
}

TEST_F(DomainXmlTest, AGuestWithAWorkloadIsADomainThatSaysSo) {
  RunningGuest guest = Guest(nullptr);
  guest.emulated = true;
  guest.runs = "--workload=zipf";
  const std::string xml = DomainXml(guest).value();
  EXPECT_THAT(xml, HasSubstr("<domain type='qemu'"));
  EXPECT_THAT(xml, HasSubstr("<description>A guest of quire run --workload=zipf</description>"));
  EXPECT_TRUE(ReadBack(xml).refused()) << "it cannot be started as a domain";
}

TEST_F(DomainXmlTest, IsValidByLibvirtsSchema) {
  if (!HasSchema()) GTEST_SKIP() << "nothing to validate with: apt-get install libvirt0 libxml2-utils";
  EXPECT_THAT(Complaints("<domain type='kvm'><nome>d</nome></domain>"), Not(IsEmpty())) << "it does complain";
  for (const auto& entry : std::filesystem::directory_iterator(kDirectory)) {
    if (entry.path().extension() != ".xml" || entry.path().stem() == "from_tomorrow") continue;
    const std::string xml = Contents(entry.path());
    EXPECT_EQ(Complaints(xml), "") << entry.path();
    RunningGuest guest = GuestOf(xml);
    EXPECT_EQ(Complaints(DomainXml(guest).value()), "") << entry.path();
    guest.balloon = ByteCount::MiB(1);
    guest.pool_limit = ByteCount::MiB(5);
    guest.swap_limit = ByteCount::MiB(6);
    EXPECT_EQ(Complaints(DomainXml(guest).value()), "") << entry.path() << " with other figures";
  }
  PcOptions pc = SomePc();
  EXPECT_EQ(Complaints(DomainXml(Guest(&pc)).value()), "");
  pc.balloon_offer.exists = false;
  pc.console = ConsoleTarget{.kind = ConsoleTarget::Kind::kTerminal};
  EXPECT_EQ(Complaints(DomainXml(Guest(&pc)).value()), "");
  EXPECT_EQ(Complaints(DomainXml(Guest(nullptr)).value()), "");
}

}  // namespace
}  // namespace quire
