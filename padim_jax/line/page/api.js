// Requests to the service that this page came from, with its token where it wants one.

const KEY = "padim-token";
let asked = null;

function ask() {
  asked ??= new Promise((resolve) => {
    const dialog = document.querySelector("#asking");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, document.querySelector("#token").value.trim());
      document.querySelector("#token").value = "";
      asked = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asked;
}

async function request(address, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(KEY);
    const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    const answer = await fetch(address, { ...options, headers });
    if (answer.status === 401) {
      await ask();
      continue;
    }
    if (!answer.ok) {
      const said = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
      throw Object.assign(new Error(said.error), { status: answer.status });
    }
    return answer;
  }
}

export async function get(address, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const text = new URLSearchParams(given).toString();
  return (await request(text ? `${address}?${text}` : address)).json();
}

export async function post(address, body) {
  const headers = { "Content-Type": "application/json", "X-Padim": "1" };
  return (await request(address, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

export async function upload(address, query, files) {
  const body = new FormData();
  for (const file of files) body.append("image", file);
  const text = new URLSearchParams(query).toString();
  return (await request(`${address}?${text}`, { method: "POST", headers: { "X-Padim": "1" }, body })).json();
}

export async function picture(address) {
  return URL.createObjectURL(await (await request(address)).blob());
}
