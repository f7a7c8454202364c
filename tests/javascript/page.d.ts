/* What the page's scripts may count on: Gradio's arguments, the server's messages (`ui/page/session.py` and
   `desk_session.py`), and what the scripts keep on their nodes. Types only; nothing of it reaches the browser. */

declare const element: HTMLElement;
declare function trigger(event: string, data: object): void;
declare const props: { texts: Record<string, Record<string, string>>; value: string };
declare function watch(name: string, done: () => void): void;
interface Window { gradio_config?: { app_id: number } }

interface News { session: string; version: number; turns: number; parts: Record<string, any> }

interface View {
  session: string;
  version: number;
  running: boolean;
  conversation: string;
  user: Member | null;
  profile: Profile | null;
  status: Record<string, any>;
  behind: { traces: Trace[]; events: LedgerEvent[] } | null;
  conversations: { id: string; title: string }[];
  members: { found: Member[] };
  topics: string[];
  turns: Turn[];
  marks: Record<string, Record<string, string>>;
  why: Record<string, Why | undefined>;
  notice: { number: number; text: string } | null;
  desk: { waiting: DeskRow[]; answered: DeskRow[] } | null;
  desk_talk: Talk | null;
  desk_help: DeskHelp;
  desk_draft: { state: "none" | "writing" | "done" | string; text: string; card: Suggestion };
  desk_actions: Action[];
  desk_chips: Record<string, string>;
  desk_sent: { number: number; talk: string; how: string; of: Words; values: number } | null;
  desk_doubt: string[];
  [turn: `desk turn ${number}`]: DeskTurn;
}

/* ---- read */

interface Link { id: string; title: string; url: string; event?: string }
interface Member { id: string; name: string; events: number; communities: string[] }
interface Rule { id: string; kind: string; topic: string; active: boolean }
interface Interest { label: string; share: number; posts: Link[] }
interface Profile { events: number; interests: Interest[]; rules: Rule[]; hidden: Link[] }
interface Evidence {
  type: "event" | "span" | "signal" | string;
  did: string;
  post: Link | null;
  text: string;
  time: number | null;
  quote: string;
  signal: string;
}
interface Reason { language: string; source: string; parts: { text: string; evidence: Evidence[] | null }[] }
interface Card extends Link {
  community: string;
  time: number | null;
  author: string;
  tags: string[];
  reason: Reason;
  waiting: boolean;
}
interface Turn {
  role: "user" | "agent";
  text: string;
  items: Card[];
  state: "running" | "done" | "stopped" | "failed";
  stage: string;
  error?: string;
  receipt?: { rules: string[]; left: number; came: number };
}
interface Why { text: string; other: string; sources: string[]; bars: { signal: string; share: number }[] }
interface Stage {
  name: string;
  in: number;
  out: number;
  ms: number;
  status: string;
  detail?: string;
  note: string;
  removed: Record<string, number>;
}
interface Trace { asked: string; stages: Stage[]; request: { intent?: string }; weights: Record<string, number> }
interface LedgerEvent { id: string; kind: string; time: number; about: string }

/* ---- desk */

interface Chip { chip: string; kind: string }
type Words = (string | Chip)[];
interface DeskEvidence { type: string; post: Link | null; quote: Words }
interface DeskPart { words: Words; evidence: DeskEvidence[] | null }
interface DeskRow { id: string; words: string; language: string; since: number; new: boolean }
interface Fact { key: string; words: Words }
interface DeskTurn { role: string; words: Words; time: number | null; rows: Fact[] | null }
interface Talk {
  id: string;
  words: string;
  language: string;
  since: number;
  closed: boolean;
  stale: boolean;
  turns: number;
  chips: string[];
}
interface Suggestion {
  id: string;
  source: string;
  sure: string;
  text: string;
  language: string;
  parts: DeskPart[];
  missing: string[];
  refused: boolean;
}
interface DeskHelp {
  state: "idle" | "loading" | "drafting" | "ready" | "failed";
  wanted: string;
  error: string | null;
  cards: Suggestion[];
  posts: (Link & { reason: { text: string }[] })[];
  handover: { reason: string; summary: Words } | null;
}
interface Field { name: string; type: string; value: string; required: boolean; words: Words }
interface Action {
  id: string;
  name: string;
  state: "preparing" | "waiting" | "approve" | "edit" | "reject" | string;
  why: Words;
  evidence: DeskEvidence[];
  fields: Field[];
}

/* ---- an element of page.html */

interface Element {
  closest(selector: string): any;
}
/** Whichever element it is: a field, a button, a link, a dialog or a template, with what the scripts keep on it. */
interface PageNode
  extends HTMLElement,
    Pick<HTMLTextAreaElement, "disabled" | "name" | "required" | "select" | "selectionStart" | "selectionEnd">,
    Pick<HTMLTextAreaElement, "setRangeText" | "setSelectionRange" | "value">,
    Pick<HTMLDialogElement, "close" | "open" | "showModal">,
    Pick<HTMLTemplateElement, "content"> {
  children_?: Map<string | number, PageNode>; // of `keyed`
  parts?: Record<string, string>; // of `part`
  action: Action;
  card: Suggestion | null;
  chip: string;
  event: string | undefined;
  evidence: any[];
  hole: string;
  member: string;
  number: number;
  post: any;
  rule: Rule;
  sure: boolean;
  talk: string;
  topic: string;
  user: string;
  whyOpen: boolean;
}
